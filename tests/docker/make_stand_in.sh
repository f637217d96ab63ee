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
    # By this machine's own pip and its settings: they say where a build of torch without CUDA comes from.
    "${PYTHON:-python3}" -m pip download -q --no-deps --only-binary :all: --python-version 3.11 --dest "$context/wheels" \
        torch==2.13.0
    docker build -q --network host -f "$here/stand_in.Dockerfile" -t llmstack-stand-in "$context"
fi
