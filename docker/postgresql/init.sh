#!/bin/sh
# Run by the image once, when it has initialized the database.
#
# The role of the server owns two databases and is not a superuser, whose SQL could run programs and read files
# in the container. The superuser keeps no password: only processes in the container can log in as superuser,
# over the socket.
set -eu

psql -v ON_ERROR_STOP=1 --no-psqlrc --quiet --username postgres --dbname postgres <<'SQL'
-- Read by psql: an argument would show it.
\set password `cat /run/database/password`
CREATE ROLE temporal LOGIN PASSWORD :'password';
CREATE DATABASE temporal OWNER temporal;
CREATE DATABASE temporal_visibility OWNER temporal;
REVOKE CONNECT ON DATABASE postgres, temporal, temporal_visibility FROM PUBLIC;
ALTER ROLE postgres PASSWORD NULL;
SQL
