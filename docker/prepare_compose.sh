#!/usr/bin/env bash
# Makes what docker-compose.triton.yml reads: secrets in docker/secrets/, the gateway's configuration in docker/haproxy/.
# A secret that is there already stays. Put your own certificate (chain and key in one PEM file) into docker/secrets/gateway.pem
# before; else one is made for a trial, self-signed, for localhost and the names given.
#
#   docker/prepare_compose.sh [NAME ...]
#
# Needs openssl, and llmstack on PATH or in .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export PATH=$PWD/../.venv/bin:$PATH

# Read by services of different users, each of which sees only its own files: so the files are for all and the directory
# keeps everybody else out.
umask 022
mkdir -p secrets haproxy
chmod 700 secrets

# Written whole or not at all.
keep() {
    if [[ -e $1 ]]; then
        cat >/dev/null
    else
        cat >"$1.new"
        chmod 644 "$1.new"
        mv "$1.new" "$1"
    fi
}

for name in readiness_webhook finance_webhook; do
    printf 'whsec_%s\n' "$(openssl rand -base64 32)" | keep "secrets/$name"
done
openssl rand -base64 24 | keep secrets/grafana_password

if [[ ! -e secrets/gateway.pem ]]; then
    names=$(printf ',DNS:%s' localhost "$@")
    key=$(mktemp)
    trap 'rm -f "$key"' EXIT
    certificate=$(openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost \
        -addext "subjectAltName=IP:127.0.0.1$names" -keyout "$key" 2>/dev/null)
    printf '%s\n%s\n' "$certificate" "$(cat "$key")" | keep secrets/gateway.pem
fi

llmstack gateway render --backend triton:8000:8001:8003 --certificate /run/secrets/gateway.pem \
    --guard /etc/haproxy/grpc_guard.lua --metrics-address '*:8405' --output haproxy/haproxy.cfg
chmod 644 haproxy/*
