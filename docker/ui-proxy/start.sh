#!/bin/sh
# nginx, with the token of a file that somebody else renews: nginx reads what it includes when it
# starts and when it is told to read it again.
set -eu
umask 077

token=/token/token
included=/tmp/authorization.conf
known=

take() {
    found=$(cat "$token" 2>/dev/null || true)
    case $found in
    "$known") return 1 ;;
    '' | *[!A-Za-z0-9._-]*) return 1 ;;
    esac
    known=$found
    printf 'set $authorization "Bearer %s";\n' "$known" >"$included.new"
    mv "$included.new" "$included"
}

echo 'set $authorization "";' >"$included"
take || true

follow() {
    while sleep 1; do
        if take; then nginx -s reload; fi
    done
}
follow &

exec nginx -g 'daemon off;'
