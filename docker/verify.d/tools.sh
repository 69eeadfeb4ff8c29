# shellcheck shell=bash disable=SC2154
# Functions of the other parts. `$work` is a folder that is removed at the end, `${compose[@]}` the program.

say() { printf '\n== %s\n' "$*"; }
# Works in a subshell of a pipe, too.
fail() { echo "$*" >"$work/failure"; exit "${fail_with:-1}"; }
skip() { echo "SKIPPED: $*"; }

# expect <words> <what…>: standard input contains the words
expect() {
    local words=$1 found
    shift
    found=$(cat)
    grep -qF -- "$words" <<<"$found" || fail "$*: no \"$words\" in: $found"
}

# run <service> <argument…>: runs a container that is removed afterwards
run() { "${compose[@]}" run --rm -T "$@" </dev/null; }

# refused <exit code> <words> <compose run argument…>
refused() {
    local code=0 wanted=$1 words=$2
    shift 2
    run "$@" >"$work/refused" 2>&1 || code=$?
    [ "$code" = "$wanted" ] || fail "$* ended with $code, not $wanted: $(cat "$work/refused")"
    expect "$words" "$*" <"$work/refused"
    echo "refused with $code: ${words}"
}

# Asks docker itself: docker-compose 1.29 takes a second for each answer.
container() {
    docker ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
        --filter "label=com.docker.compose.service=$1" --filter label=com.docker.compose.oneoff=False
}
inspect() { docker inspect --format "$2" "$1"; }
address() { docker port "$(container "$1")" "$2"; }

# within <seconds> <what> <command…>
within() {
    local limit=$1 what=$2 end=$((SECONDS + $1))
    shift 2
    until "$@" >"$work/within" 2>&1; do
        [ "$SECONDS" -lt "$end" ] || fail "not within $limit s: $what: $(tail -5 "$work/within")"
        sleep 0.5
    done
}

healthy() {
    local id
    id=$(container "$1")
    [ -n "$id" ] && [ "$(inspect "$id" '{{.State.Health.Status}}')" = healthy ]
}

running=(pki-renew jwks token-worker token-starter token-admin token-ui postgresql temporal worker ui ui-proxy)
all_healthy() {
    local one
    for one in "${running[@]}"; do
        healthy "$one" || { echo "$one is not healthy"; return 1; }
    done
}

up() {
    if [[ $version == 1.* ]]; then
        # Without `--wait`.
        "${compose[@]}" up -d "$@" >"$work/up" 2>&1 || { cat "$work/up" >&2; fail "up"; }
    else
        "${compose[@]}" up --wait "$@" >"$work/up" 2>&1 || { cat "$work/up" >&2; fail "up"; }
    fi
    within 120 "everything healthy" all_healthy
}

hello() {
    run starter --timeout 60s >"$work/hello" 2>"$work/hello-log" || fail "hello: $(cat "$work/hello-log")"
    expect "Workflow result: Hello Temporal!" hello <"$work/hello"
}

ui() { curl -fsS --max-time 10 "http://$(address ui-proxy 8080)$1"; }
# The number of workflows that a query finds; the answer is complete.
count() {
    local answer
    answer=$(ui "/api/v1/namespaces/default/workflow-count?query=$1") || return 1
    sed -n 's/.*"count": *"\([0-9]*\)".*/\1/p; s/^{}$/0/p' <<<"$answer"
}
count_of() {
    local found
    found=$(count "$1")
    echo "count of $1: $found, and not $2 $3"
    [ -n "$found" ] && test "$found" "$2" "$3"
}

# Runs workflows in batches until the file is removed. Each batch must succeed.
load() {
    touch "$work/go-on"
    (
        while [ -e "$work/go-on" ]; do
            run starter --count 200 --concurrency 10 --workflow-id "load-$RANDOM$RANDOM" \
                >>"$work/load" 2>>"$work/load-log" || { echo "a batch failed" >>"$work/load"; exit 1; }
        done
    ) &
    load=$!
}
end_load() {
    rm -f "$work/go-on"
    wait "$load" || { tail -30 "$work/load-log" >&2; cat "$work/load" >&2; load=; fail "work failed under load"; }
    load=
}
