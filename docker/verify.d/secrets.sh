# shellcheck shell=bash disable=SC2154
# Each container has only its own credentials, and no rights that it does not need.

say "each container has what it needs and no more"
may_have() { # may_have <volume> <service…>: nobody else has it
    local volume=$1 id name
    shift
    for id in $(docker ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"); do
        name=$(inspect "$id" '{{index .Config.Labels "com.docker.compose.service"}}')
        if inspect "$id" '{{range .Mounts}}{{.Name}} {{end}}' | grep -w "${COMPOSE_PROJECT_NAME}_$volume" >/dev/null; then
            [[ " $* " == *" $name "* ]] || fail "$name has the volume $volume"
        fi
    done
}
may_have ca pki pki-renew
may_have signing jwks token-worker token-starter token-admin token-ui
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
docker ps --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" --format '{{.Names}} {{.Ports}}' >"$work/ports"
! grep -E '(0\.0\.0\.0|\[?::\]?):[0-9]+->' "$work/ports" || fail "a port is open to others"
if docker run --rm --entrypoint sh temporal-rotating-credentials -c true >/dev/null 2>&1; then fail "the image has a shell"; fi
docker inspect $(docker ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME") >"$work/inspected"
! grep -E 'eyJ|PRIVATE KEY|POSTGRES_PASSWORD=' "$work/inspected" || fail "a secret is shown by docker inspect"
