# shellcheck shell=bash disable=SC2154
# Each container has only its own credentials, and no rights that it does not need.

say "each container has what it needs and no more"
may_have() { # may_have <volume> <service…>: nobody else has it
    local volume=$1 id name
    shift
    for id in $(docker ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"); do
        name=$(inspect "$id" '{{index .Config.Labels "com.docker.compose.service"}}')
        if inspect "$id" '{{range .Mounts}}{{println .Name}}{{end}}' | grep -Fx "${COMPOSE_PROJECT_NAME}_$volume" >/dev/null; then
            [[ " $* " == *" $name "* ]] || fail "$name has the volume $volume"
        fi
    done
}
may_have ca pki pki-renew
may_have signing jwks
may_have signing-active jwks token-worker token-starter token-admin token-ui
may_have worker-tls pki pki-renew worker
may_have worker-token token-worker worker
may_have starter-token token-starter
may_have admin-tls pki pki-renew namespace
may_have admin-token token-admin namespace
may_have ui-tls pki pki-renew ui
may_have ui-token token-ui ui-proxy
may_have frontend-tls pki pki-renew temporal
may_have internode-tls pki pki-renew temporal
may_have database-password database-password postgresql schema temporal
for agent in token-worker token-starter token-admin token-ui; do
    keys=$(docker cp "$(container "$agent"):/certs/signing" - | tar -t | grep -v '/$' | xargs)
    [ "$keys" = signing/active/current.pem ] || fail "$agent sees of the signing keys: $keys"
done

for service in "${running[@]}"; do
    id=$(container "$service")
    inspect "$id" '{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.Privileged}}' |
        expect "true [ALL] false" "$service"
    ! docker top "$id" -eo pid,uid | awk '$2 == 0' | grep -q . || fail "$service runs as root"
done
for id in $(docker ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"); do
    user=$(inspect "$id" '{{.Config.User}}')
    [[ $user != '' && $user != root && $user != 0* ]] || fail "$(inspect "$id" '{{.Name}}') starts as root"
done
# Of login users.
for service in "${running[@]}"; do
    ! docker top "$(container "$service")" -eo pid,uid | awk '$2 >= 1000 && $2 <= 60000' | grep . >"$work/uids" ||
        fail "$service runs as a user that a host gives to a login: $(cat "$work/uids")"
done
for id in $(docker ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"); do
    inspect "$id" '{{.HostConfig.PidsLimit}} {{gt .HostConfig.Memory 0}} {{.HostConfig.Ulimits}}' |
        expect "512 true [core=0:0]" "the limits of $(inspect "$id" '{{.Name}}')"
done
# sql <role> <database> <statement>: with the password, over the network, as the server connects
sql() {
    # shellcheck disable=SC2016 # the inner shell expands them
    "${compose[@]}" exec -T postgresql bash -c \
        'PGPASSWORD=$(cat /run/database/password) psql -h postgresql -U "$0" -d "$1" -AtXc "$2"' "$@" 2>&1 </dev/null
}
roles='SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls FROM pg_roles'
sql temporal temporal "$roles WHERE rolname = 'temporal'" | expect "temporal|f|f|f|f|f" "the role of the server"
sql temporal temporal "SELECT count(*) > 10 FROM pg_tables WHERE schemaname = 'public'" | expect t "the tables of the server"
{ sql temporal temporal "COPY namespaces TO PROGRAM 'true'" || true; } | expect "external program" "a program run by SQL"
{ sql temporal postgres "SELECT 1" || true; } | expect "permission denied" "the database of the superuser"
{ sql postgres postgres "SELECT 1" || true; } | expect "password authentication failed" "the superuser"

docker ps --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" --format '{{.Names}} {{.Ports}}' >"$work/ports"
! grep -E '(0\.0\.0\.0|\[?::\]?):[0-9]+->' "$work/ports" || fail "a port is open to others"
if docker run --rm --entrypoint sh temporal-rotating-credentials -c true >/dev/null 2>&1; then fail "the image has a shell"; fi
docker inspect $(docker ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME") >"$work/inspected"
! grep -E 'eyJ|PRIVATE KEY|POSTGRES_PASSWORD=' "$work/inspected" || fail "a secret is shown by docker inspect"
