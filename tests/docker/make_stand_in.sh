#!/usr/bin/env bash
# Builds the image `llmstack-stand-in` unless it is there: two to four minutes, as root, with Debian's debootstrap and a
# running Docker.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if ! docker image inspect llmstack-debian >/dev/null 2>&1; then
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    debootstrap --variant=minbase \
        --include=python3,python3-venv,python3-pip,ca-certificates,libpython3.11,haproxy,prometheus bookworm "$root/root" >/dev/null
    tar c -C "$root/root" . | docker import - llmstack-debian >/dev/null
fi
if ! docker image inspect llmstack-stand-in >/dev/null 2>&1; then
    context=$(mktemp -d)
    trap 'rm -rf "$context" "${root:-}"' EXIT
    cp -rL /etc/ssl/certs "$context/certs"
    docker build -q --network host -f "$here/stand_in.Dockerfile" -t llmstack-stand-in "$context"
fi
