#!/usr/bin/env bash
# Creates the files that docker-compose.triton.yml reads: secrets in docker/secrets/ and the gateway's configuration in
# docker/haproxy/. Existing secrets are kept.
#
#   docker/prepare_compose.sh [NAME ...]
#
# To use your own certificate, first put chain and key into one PEM file, docker/secrets/gateway.pem. Otherwise the
# script creates a self-signed one for tests, for localhost and each NAME.
#
# Requires openssl, and llmstack on PATH or in .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export PATH=$PWD/../.venv/bin:$PATH

# The services run as different users, and compose gives each its own secrets. So the files are readable by all users,
# and the directory keeps other users of this machine out.
umask 022
mkdir -p secrets haproxy
chmod 700 secrets

# Writes standard input to a file atomically, unless the file exists.
write_once() {
    if [[ -e $1 ]]; then
        cat >/dev/null
    else
        cat >"$1.new"
        chmod 644 "$1.new"
        mv "$1.new" "$1"
    fi
}

for name in readiness_webhook finance_webhook; do
    printf 'whsec_%s\n' "$(openssl rand -base64 32)" | write_once "secrets/$name"
done
openssl rand -base64 24 | write_once secrets/grafana_password

if [[ ! -e secrets/gateway.pem ]]; then
    names=$(printf ',DNS:%s' localhost "$@")
    key=$(mktemp)
    trap 'rm -f "$key"' EXIT
    certificate=$(openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost \
        -addext "subjectAltName=IP:127.0.0.1$names" -keyout "$key" 2>/dev/null)
    printf '%s\n%s\n' "$certificate" "$(cat "$key")" | write_once secrets/gateway.pem
fi

case ${LLMSTACK_REQUIRE_API_KEYS:-1} in
0 | false | no | off) keys=() ;;
*) keys=(--require-api-keys) ;;
esac
llmstack gateway render "${keys[@]}" --backend triton:8000:8001:8003:8005 --certificate /run/secrets/gateway.pem \
    --guard /etc/haproxy/guard.lua --metrics-address '*:8405' --output haproxy/haproxy.cfg
chmod 644 haproxy/*
