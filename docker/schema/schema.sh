#!/bin/sh
# Creates the tables of the two databases, or updates them to the version of these tools. It can run again.
set -eu

SQL_PASSWORD=$(cat /run/database/password)
export SQL_PASSWORD

sql() {
    temporal-sql-tool --plugin postgres12 --ep postgresql --port 5432 --user temporal "$@"
}

tries=0
until nc -z postgresql 5432; do
    tries=$((tries + 1))
    if [ "$tries" -ge 60 ]; then
        echo "schema.sh: no connection to postgresql:5432: see \`docker compose logs postgresql\`" >&2
        exit 1
    fi
    sleep 1
done

# setup <database> <folder of its versions>
setup() {
    sql --db "$1" setup-schema -v 0.0
    sql --db "$1" update-schema -d "/etc/temporal/schema/postgresql/v12/$2/versioned"
}

setup temporal temporal
setup temporal_visibility visibility
