# shellcheck shell=bash disable=SC2154
# From a container of its own in each network, tries every port of every service. The open ports must be those of
# the table in docs/containers.md.

say "who reaches what"
bash_image=postgres:$(sed -n 's/^POSTGRES_VERSION=//p' .env)
# in_network <docker's name of it> <script> <argument…>: runs it with bash
in_network() { docker run --rm --network "$1" --user postgres --entrypoint bash "$bash_image" -c "${@:2}"; }

# service, address, port: of each address, the ports at which something listens at any
for service in "${running[@]}" prometheus grafana; do
    id=$(container "$service")
    [ -n "$id" ] || continue
    # The kernel's table: local address and port in hex, and 0A for a socket that listens.
    ports=$(in_network "container:$id" 'cat /proc/net/tcp /proc/net/tcp6' |
        awk '$4 == "0A" { sub(/.*:/, "", $2); print "0x" $2 }' | sort -u)
    for address in $(inspect "$id" '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}'); do
        for port in $ports; do echo "$service $address $((port))"; done
    done
done >"$work/doors"
[ "$(cut -d' ' -f1 "$work/doors" | sort -u | wc -l)" -gt 5 ] || fail "too few ports: $(cat "$work/doors")"

# network, member: also of those that have ended
for service in starter keyutil; do
    # It stays, unlike those of `run`.
    "${compose[@]}" run -T --no-deps "$service" --help </dev/null >/dev/null 2>&1
done
for id in $(docker ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"); do
    service=$(inspect "$id" '{{index .Config.Labels "com.docker.compose.service"}}')
    for network in $(inspect "$id" '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}'); do
        echo "$network $service"
    done
done >"$work/members"

for network in $(docker network ls --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" --format '{{.Name}}'); do
    # shellcheck disable=SC2016 # the inner shell expands them
    in_network "$network" '
        while read -r service address port; do
            (timeout 3 bash -c "exec 3<>/dev/tcp/$address/$port" 2>/dev/null && echo "$service:$port") &
        done <<<"$0"
        wait' "$(cat "$work/doors")" >"$work/open"
    members=$(sed -n "s/^$network //p" "$work/members" | sort -u | xargs)
    sort -u "$work/open" | xargs echo "${network#"${COMPOSE_PROJECT_NAME}"_}: $members:"
done | sort >"$work/found"

# Rows: | `network` | `member`, … | `service:port`, … |, of which only what there is: Grafana's image may
# not be available.
sed -n '/^| network /,/^$/s/^| `\([a-z-]*\)` | \([^|]*\) | \([^|]*\) |$/\1: \2: \3/p' docs/containers.md | tr -d '`,' |
    while IFS=: read -r network members doors; do
        present=$(for member in $members; do sed -n "s/^[^ ]* \($member\)$/\1/p" "$work/members"; done | sort -u | xargs)
        for door in $doors; do
            ! grep "^${door%:*} " "$work/doors" >/dev/null || echo "$door"
        done | sort -u | xargs echo "$network: $present:"
    done | sort >"$work/documented"
cat "$work/found"
diff "$work/documented" "$work/found" >"$work/differences" ||
    fail "docs/containers.md (<) and the networks (>) differ: $(cat "$work/differences")"

# The first frame of a TChannel connection: size, type 1, id; version, headers. The answer has type 2.
frame='\x00\x3e\x01\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x02'
frame+='\x00\x09host_port\x00\x090.0.0.0:0\x00\x0cprocess_name\x00\x04test'
membership=$(in_network "${COMPOSE_PROJECT_NAME}_frontend" "
    exec 3<>/dev/tcp/temporal/6933
    printf '$frame' >&3
    timeout 10 head -c 3 <&3 | od -An -tx1 || true")
[ -z "$membership" ] || fail "the membership port answers in plain text:$membership"
echo "the membership port does not answer in plain text"
