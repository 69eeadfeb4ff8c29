#!/bin/sh
# The Web UI reads the CA of the server once, at its start. When that file changes, this script ends the
# UI, and docker starts it again.
set -eu

ca=/certs/ui/ca.crt
known=$(cat "$ca")

watch() {
    while sleep 5; do
        found=$(cat "$ca" 2>/dev/null || true)
        case $found in
        "$known" | '') ;;
        *)
            echo "start.sh: the CA of the server has changed: restarting" >&2
            kill -TERM 1
            ;;
        esac
    done
}
watch &

exec ./start-ui-server.sh
