#!/bin/sh
# Runs nginx with the token of a file that an agent renews. nginx reads included files at its start and
# on `nginx -s reload`.
set -eu
umask 077

token=/token/token
included=/tmp/authorization.conf
sent=none

# The expiry of a token in seconds since 1970: `exp` of its payload, which is base64url.
expiry() {
    payload=${1#*.}
    payload=$(printf '%s' "${payload%%.*}" | tr '_-' '/+')
    while [ $((${#payload} % 4)) -ne 0 ]; do payload=$payload=; done
    printf '%s' "$payload" | base64 -d 2>/dev/null | sed -n 's/.*"exp":\([0-9]*\).*/\1/p'
}

# The token of the file, or nothing if it is malformed or expired.
current() {
    found=$(cat "$token" 2>/dev/null || true)
    case $found in
    '' | *[!A-Za-z0-9._-]*) return ;;
    esac
    expires=$(expiry "$found")
    [ "${expires:-0}" -le "$(date +%s)" ] || printf '%s' "$found"
}

# Writes the token for nginx. Succeeds if it has changed.
take() {
    found=$(current)
    [ "$found" != "$sent" ] || return 1
    sent=$found
    [ -n "$sent" ] || echo "start.sh: there is no valid token in $token: see the logs of token-ui" >&2
    printf 'set $authorization "%s";\n' "${sent:+Bearer $sent}" >"$included.new"
    mv "$included.new" "$included"
}

take

follow() {
    while sleep 1; do
        if take; then nginx -s reload; fi
    done
}
follow &

exec nginx -g 'daemon off;'
