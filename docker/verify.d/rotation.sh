# shellcheck shell=bash disable=SC2154
# Certificates and CAs are renewed automatically, and then every credential by the commands of docs/containers.md,
# while workflows run.

say "every credential rotates, with work going on"
load
within 60 "the load has begun" count_of 'WorkflowType%3D%22HelloWorkflow%22' -gt 20

# No `grep -q`: it closes the pipe early, and `pipefail` then reports the writer's SIGPIPE.
worker_says() {
    "${compose[@]}" logs --no-color worker >"$work/log" 2>/dev/null
    grep -F -- "$1" "$work/log" | grep -F -- "$2" >/dev/null
}
worker_shows() { worker_says "TLS handshake" "$1"; }
serial() { # serial <line that begins like this> <file>: the new one
    awk -v name="$1" '$1 == name { print $3 }' "$2" | tail -1
}
rotated() { # rotated <what…>
    echo "\$ ${compose[*]} run --rm keyutil $*"
    run keyutil "$@" >"$work/rotated" 2>"$work/rotated-log" || { cat "$work/rotated-log" >&2; fail "$*"; }
}

# field <party> <2: serial, 6: number of the issuing CA> <output of pki list>. The row of a party has
# the serial number second; that of a CA does not.
field() { awk -v name="$1" -v field="$2" '$1 == name && length($2) == 32 { print $field }' "$3"; }
listed() { run keyutil pki list >"$1" 2>/dev/null; }
# all_other <field>: it differs for every party from what it was at first
all_other() {
    local party before now
    listed "$work/listed" || { cat "$work/listed"; return 1; }
    for party in "${@:2}"; do
        before=$(field "$party" "$1" "$work/listed-first")
        now=$(field "$party" "$1" "$work/listed")
        [ -n "$before" ] && [ -n "$now" ] && [ "$before" != "$now" ] || { echo "$party: $before, $now"; return 1; }
    done
}
all_retired() { listed "$work/listed" && ! grep -E '^[a-z]+-(next|previous) ' "$work/listed"; }
worker_shows_its_own() { listed "$work/listed" && worker_shows "$(field worker 2 "$work/listed")"; }
worker_shows_the_servers() { listed "$work/listed" && worker_shows "$(field frontend 2 "$work/listed")"; }

listed "$work/listed-first" || fail "pki list: $(cat "$work/listed-first")"
within 200 "every certificate was renewed by itself" all_other 2 worker starter admin ui frontend internode
within 400 "the CAs of clients and frontend rotated by themselves" all_other 6 worker starter admin ui frontend
within 100 "the old CAs are no longer trusted" all_retired
within 60 "the server has seen the worker's certificate" worker_shows_its_own
within 60 "the worker has seen the server's certificate" worker_shows_the_servers
echo "all certificates, and the CAs of clients and frontend, were replaced by themselves"

# From here on the CA lives for years: the certificate that is kept below must not expire with it.
rotated pki rotate client-ca
rotated pki rotate worker --lifetime 1h
new=$(serial worker "$work/rotated")
[ -n "$new" ] || fail "no serial in: $(cat "$work/rotated")"
within 60 "the server has seen the worker's certificate $new" worker_shows "$new"
rotated pki rotate starter
rotated pki rotate ui
rotated pki rotate frontend
new=$(serial frontend "$work/rotated")
within 120 "the worker has seen the server's certificate $new" worker_shows "$new"

rotated key rotate --wait
kid=$(run keyutil key list 2>/dev/null | awk '$2 == "current" { print $1 }')
[ -n "$kid" ] || fail "no current key"
worker_bears() { worker_says "credential replaced" "$kid"; }
within 30 "the worker's token is signed with $kid" worker_bears

docker cp "$(container worker):/certs/worker" "$work/old" >/dev/null
chmod -R a+rX "$work/old"
rotated pki rotate client-ca
rotated pki rotate frontend-ca
end_load
grep -c "failed: 0" "$work/load" | xargs printf '%s batches of 200 workflows ran meanwhile, and none failed\n'
! grep -vE '^(Workflow id: load-.*|Workflow result: Hello Temporal! \(200 times\)|failed: 0|latency: .*)$' "$work/load" || fail "something failed"
within 60 "everything healthy after the rotations" all_healthy
run keyutil pki list 2>/dev/null | expect "clients" "pki list"
refused 79 "UnknownCA" -v "$work/old:/old:ro" -e TEMPORAL_TLS_CLIENT_CERT_PATH=/old/tls.crt \
    -e TEMPORAL_TLS_CLIENT_KEY_PATH=/old/tls.key keyutil doctor

say "the CA between the parts of the server, which takes restarts"
code=0
run keyutil pki rotate internode-ca >"$work/rotated" 2>&1 || code=$?
[ "$code" = 75 ] || fail "internode-ca: $code: $(cat "$work/rotated")"
"${compose[@]}" restart temporal >/dev/null 2>&1
within 120 "everything healthy after the restart" all_healthy
rotated pki rotate internode-ca --servers-restarted
"${compose[@]}" restart temporal >/dev/null 2>&1
within 120 "everything healthy after the second restart" all_healthy
hello
