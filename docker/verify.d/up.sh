# shellcheck shell=bash disable=SC2154
# Everything starts, a workflow runs, and a client that lacks a credential is refused for that reason.

say "compose $version: images"
with_defaults=$("${compose[@]}" --profile tools config)
for image in $(sed -n 's/^ *image: //p' <<<"$with_defaults" | sort -u) "rust:$(sed -n 's/^RUST_VERSION=//p' .env)-slim-bookworm"; do
    case $image in
        temporal-rotating-credentials | prom/* | grafana/*) continue ;;
    esac
    if ! docker image inspect "$image" >/dev/null 2>&1 && ! docker pull -q "$image" >/dev/null 2>"$work/pull"; then
        fail_with=69
        fail "the image $image cannot be had here: $(tail -1 "$work/pull")"
    fi
done

say "up"
started=$SECONDS
up --build
echo "everything is healthy after $((SECONDS - started)) s, with what had to be built"
docker image inspect --format 'the image of our programs has {{.Size}} bytes' temporal-rotating-credentials

say "hello"
hello
run starter --check 2>/dev/null | expect "Check passed" check
run keyutil doctor --as starter >"$work/doctor" 2>&1 || { cat "$work/doctor" >&2; fail "doctor finds something"; }
grep -v "^ " "$work/doctor" | grep -E "^(ok|warning)"

"${compose[@]}" exec -T worker keyutil doctor --as worker >"$work/doctor" 2>&1 </dev/null || { cat "$work/doctor"; fail "doctor finds something in the worker"; }
run --no-deps --entrypoint keyutil starter doctor --as starter >"$work/doctor" 2>&1 || { cat "$work/doctor"; fail "doctor finds something in the starter"; }

say "refused, each for its own reason"
refused 79 "CertificateRequired" -e TEMPORAL_TLS_CLIENT_CERT_PATH= -e TEMPORAL_TLS_CLIENT_KEY_PATH= keyutil doctor
refused 80 "no token" -e KEYUTIL_TOKEN_FILE= starter --check
refused 80 "audience" -e KEYUTIL_AUDIENCE=somebody-else keyutil doctor --server-audience temporal.local
refused 77 "the token has" -e KEYUTIL_PERMISSIONS=payments:write keyutil doctor
docker cp "$(container token-ui):/token/token" "$work/ui-token" >/dev/null
chmod a+rx "$work"
chmod a+r "$work/ui-token"
refused 77 "the token has" -v "$work/ui-token:/ui-token:ro" -e KEYUTIL_TOKEN_FILE=/ui-token starter --check
refused 81 "does not exist" -e TEMPORAL_NAMESPACE=payments -e KEYUTIL_PERMISSIONS=payments:write keyutil doctor
refused 76 "not valid for the name" -e TEMPORAL_TLS_SERVER_NAME=example.com keyutil doctor
