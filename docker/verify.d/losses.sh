# shellcheck shell=bash disable=SC2154
# Services are restarted, killed and stopped for a while; no accepted workflow is lost.

before=$(count 'ExecutionStatus%3D%22Completed%22')
say "restart, stop and start; $before workflows are finished"
"${compose[@]}" restart -t 30 >"$work/restart" 2>&1 || { cat "$work/restart" >&2; fail restart; }
within 120 "everything healthy after restart" all_healthy
hello
"${compose[@]}" stop -t 30 >/dev/null 2>&1
"${compose[@]}" start >"$work/start" 2>&1 || { cat "$work/start" >&2; fail start; }
within 180 "everything healthy after stop and start" all_healthy
hello

say "each service dies, and is started again by docker"
# From outside of its container: docker does not restart what `docker kill` has ended.
die() {
    local pid
    pid=$(inspect "$(container "$1")" '{{.State.Pid}}')
    kill -KILL "$pid" 2>/dev/null || sudo -n kill -KILL "$pid" 2>/dev/null
}
restarts() { inspect "$(container "$1")" '{{.RestartCount}}'; }
restarted() { [ "$(restarts "$1")" -gt "$2" ]; }
for service in "${running[@]}"; do
    restarts=$(restarts "$service")
    if die "$service"; then
        within 30 "docker has started $service again" restarted "$service" "$restarts"
    else
        echo "only root may kill it from here: \`kill\` and \`start\` instead"
        "${compose[@]}" kill -s KILL "$service" >/dev/null 2>&1
        "${compose[@]}" start "$service" >/dev/null 2>&1
    fi
    within 120 "everything healthy after $service was killed" all_healthy
    hello
    echo "$service"
done

say "each service is killed, and started again by hand"
"${compose[@]}" kill -s KILL "${running[@]}" >/dev/null 2>&1
"${compose[@]}" start "${running[@]}" >/dev/null 2>&1
within 180 "everything healthy after all were killed" all_healthy
hello

say "the database is away for a minute, with work going on"
run starter --count 1000 --concurrency 20 --workflow-id "lost-$$" --workflow-timeout 5m >"$work/lost" 2>&1 &
starter=$!
within 60 "work is going on" count_of "WorkflowId%20STARTS_WITH%20%22lost-$$%22" -gt 50
"${compose[@]}" stop -t 5 postgresql >/dev/null 2>&1
sleep 60
"${compose[@]}" start postgresql >/dev/null 2>&1
within 120 "everything healthy with the database back" all_healthy
wait "$starter" || echo "the starter has given up, as calls were not answered for longer than it waits"
within 120 "every workflow that was started is finished" count_of 'ExecutionStatus%3D%22Running%22' -eq 0
hello

say "down keeps what there is"
finished=$(count 'ExecutionStatus%3D%22Completed%22')
[ "$finished" -gt "$before" ] || fail "$finished finished workflows are not more than $before"
# The certificates of the parties may be renewed at any moment.
authorities() { run keyutil pki list 2>/dev/null | awk '$1 ~ /^(clients|frontend|internode)$/ && length($2) != 32'; }
authorities >"$work/authorities"
[ "$(wc -l <"$work/authorities")" = 3 ] || fail "the CAs: $(cat "$work/authorities")"
"${compose[@]}" down >/dev/null 2>&1
up
[ "$(count 'ExecutionStatus%3D%22Completed%22')" = "$finished" ] || fail "workflows are lost"
authorities | diff - "$work/authorities" || fail "the CAs are others"
hello
echo "$finished finished workflows are still there"
