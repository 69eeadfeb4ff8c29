# shellcheck shell=bash disable=SC2154
# Prometheus collects every metric that the dashboard shows.

say "Prometheus and Grafana"
if docker image inspect "prom/prometheus:$(sed -n 's/^PROMETHEUS_VERSION=//p' .env)" >/dev/null 2>&1 ||
    "${compose[@]}" --profile observability pull prometheus >/dev/null 2>&1; then
    "${compose[@]}" --profile observability up -d prometheus >/dev/null 2>&1
    within 60 "Prometheus is healthy" healthy prometheus
    query() { curl -fsS --max-time 10 --data-urlencode "query=$1" "http://$(address prometheus 9090)/api/v1/query"; }
    targets_up() { query 'count(up == 1)' | grep -F '"4"]' >/dev/null; }
    within 60 "four targets answer" targets_up
    hello
    answered() { query "$1" | grep -F '"value":[' >/dev/null; }
    sed -n 's/^ *"expr": "\(.*\)",*$/\1/p' docker/grafana/dashboards/*.json | sed 's/\\"/"/g' | sort -u >"$work/expressions"
    [ -s "$work/expressions" ] || fail "the dashboard has no expressions"
    while read -r expression; do
        within 60 "the dashboard's \`$expression\` has a value" answered "${expression//\$__rate_interval/1m}"
    done <"$work/expressions"
    echo "$(wc -l <"$work/expressions") expressions of the dashboard have values"
    for certificate in worker starter admin ui frontend internode client-ca frontend-ca internode-ca; do
        within 60 "the life of $certificate is known" answered \
            "keyutil_credential_expiry_timestamp_seconds{credential=\"$certificate\"} - on(instance, credential) keyutil_credential_valid_from_timestamp_seconds"
    done
    curl -fsS "http://$(address prometheus 9090)/api/v1/rules" | expect "CertificateExpires" "the rules"
else
    skip "Prometheus: its image cannot be had here"
fi
if docker image inspect "grafana/grafana:$(sed -n 's/^GRAFANA_VERSION=//p' .env)" >/dev/null 2>&1 ||
    "${compose[@]}" --profile observability pull grafana >/dev/null 2>&1; then
    "${compose[@]}" --profile observability up -d grafana >/dev/null 2>&1
    within 120 "Grafana is healthy" healthy grafana
    curl -fsS "http://$(address grafana 3000)/api/search" | expect "Temporal" "the dashboards of Grafana"
else
    skip "Grafana: its image cannot be had here"
fi
