#!/usr/bin/env bash
# Builds a stand-in for NVIDIA's image, unless one of this script and its Dockerfile exists. Takes two to four minutes.
# Requires root, debootstrap and a running Docker. Prints the names of two images: Debian with HAProxy and Prometheus,
# and the stand-in.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

recipe=$(cat "$here/make_stand_in.sh" "$here/stand_in.Dockerfile" | sha256sum | cut -c 1-12)
debian=llmstack-debian:$recipe
stand_in=llmstack-stand-in:$recipe

if ! docker image inspect "$debian" >/dev/null 2>&1; then
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    # No python3-venv: NVIDIA's image has pip but no ensurepip. The health checks use wget, as in the real images.
    debootstrap --variant=minbase \
        --include=python3,python3-pip,ca-certificates,libpython3.11,haproxy,prometheus,wget bookworm "$root/root" >/dev/null
    tar c -C "$root/root" . | docker import - "$debian" >/dev/null
fi
if ! docker image inspect "$stand_in" >/dev/null 2>&1; then
    context=$(mktemp -d)
    trap 'rm -rf "$context" "${root:-}"' EXIT
    cp -rL /etc/ssl/certs "$context/certs"
    # Uses this machine's pip, whose settings name an index with CPU builds of torch.
    "${PYTHON:-python3}" -m pip download -q --no-deps --only-binary :all: --python-version 3.11 --dest "$context/wheels" \
        torch==2.13.0
    docker build -q --network host -f "$here/stand_in.Dockerfile" --build-arg "BASE=$debian" \
        -t "$stand_in" "$context" >/dev/null
fi
printf '%s\n' "$debian" "$stand_in"
