# shellcheck shell=bash disable=SC2154
# The Web UI by its API and in a browser, with and without the proxy.

say "the Web UI"
run starter --workflow-id "seen-in-the-ui-$$" >/dev/null 2>&1
proxy=$(address ui-proxy 8080)
direct=$(inspect "$(container ui)" '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}' | cut -d' ' -f1):8080
within 30 "the workflow is listed" count_of "WorkflowId%3D%22seen-in-the-ui-$$%22" -eq 1
code() { curl -s -o /dev/null -w '%{http_code}' --max-time 10 "$@"; }
[ "$(code "http://$proxy/api/v1/namespaces/default/workflows" -H 'Host: somebody.else')" = 421 ] || fail "the proxy answers to any name"
if [ "$(code "http://$direct/healthz")" = 200 ]; then
    [ "$(code "http://$direct/api/v1/namespaces/default/workflows")" = 403 ] || fail "the UI has a token of its own"
    echo "403 past the proxy"
else
    skip "the UI past the proxy: the networks of the containers cannot be reached from here"
fi
write=$(code -X POST -H 'Content-Type: application/json' -d '{}' "http://$proxy/api/v1/namespaces/default/workflows/seen-in-the-ui-$$/terminate")
[[ $write == 40[35] ]] || fail "something can be changed through the UI: $write"

# Without its agent the proxy sends no expired token, and answers 503.
"${compose[@]}" stop token-ui >/dev/null 2>&1
proxy_says() { [ "$(code "http://$proxy/api/v1/namespaces")" = "$1" ]; }
within 60 "the proxy says that it has no token" proxy_says 503
"${compose[@]}" start token-ui >/dev/null 2>&1
within 60 "the proxy has a token" proxy_says 200
within 60 "everything healthy with token-ui back" all_healthy

browser=
for name in chromium chromium-browser google-chrome; do
    ! command -v "$name" >/dev/null || { browser=$(command -v "$name"); break; }
done
if [ -n "$browser" ] && command -v chromedriver >/dev/null; then
    # WebDriver (W3C): scripts build the page, so its text is queried until it is there.
    TMPDIR=$work chromedriver --port=0 >"$work/chromedriver" 2>&1 &
    driver=$!
    within 20 "chromedriver has started" grep -q "started successfully on port" "$work/chromedriver"
    webdriver=http://127.0.0.1:$(sed -n 's/.*started successfully on port \([0-9]*\).*/\1/p' "$work/chromedriver")/session
    arguments='"--headless","--no-sandbox","--disable-gpu","--disable-quic","--no-first-run","--disable-background-networking","--disable-component-update","--disable-sync","--window-size=1400,900"'
    options="{\"binary\":\"$browser\",\"args\":[$arguments,\"--user-data-dir=$work/browser\"]}"
    # Does not wait for a page that is still loading.
    capabilities="{\"capabilities\":{\"alwaysMatch\":{\"pageLoadStrategy\":\"none\",\"goog:chromeOptions\":$options}}}"
    session=$(curl -fsS -d "$capabilities" "$webdriver" | sed -n 's/.*"sessionId":"\([^"]*\)".*/\1/p')
    [ -n "$session" ] || fail "no browser session: $(tail -3 "$work/chromedriver")"
    open_page() { curl -fsS -d "{\"url\":\"$1\"}" "$webdriver/$session/url" >/dev/null; }
    shows() { curl -fsS --max-time 10 "$webdriver/$session/source" >"$work/page" && grep -qF -- "$1" "$work/page"; }
    picture() { curl -fsS "$webdriver/$session/screenshot" | sed 's/.*"value":"//; s/".*//' | base64 -d >"$1"; }

    list="http://$proxy/namespaces/default/workflows"
    open_page "$list"
    within 30 "the workflow is in the list of $browser" shows "seen-in-the-ui-$$"
    run_id=$(ui "/api/v1/namespaces/default/workflows/seen-in-the-ui-$$" | sed -n 's/.*"runId": *"\([^"]*\)".*/\1/p' | head -1)
    open_page "$list/seen-in-the-ui-$$/$run_id/history"
    for words in "Workflow Execution Completed" "HelloWorkflow" "Hello Temporal!"; do
        within 30 "$browser shows \"$words\" in the history" shows "$words"
    done
    mkdir -p target/docker
    picture target/docker/ui.png

    open_page "http://$direct/namespaces/default/workflows"
    # Looks three times, seconds apart, because the page repeats its login.
    for _ in 1 2 3; do
        sleep 3
        ! shows "seen-in-the-ui-$$" || fail "the UI shows workflows without a token"
        [ -s "$work/page" ] || fail "the browser shows nothing of $direct"
    done
    curl -fsS -X DELETE "$webdriver/$session" >/dev/null || true
    kill "$driver"
    wait "$driver" 2>/dev/null || true
    driver=
    echo "seen in $browser: the list, a history; and nothing past the proxy (target/docker/ui.png)"
else
    skip "the Web UI in a browser: there is no chromedriver, or neither Chromium nor Chrome"
fi
