#!/usr/bin/env bash
# Serves one release from the image that `llmstack image build` makes, in the foreground, until Ctrl-C.
#
#   docker/serve_triton.sh [--dry-run] [arguments of `llmstack serve`]
#
# Each of these may be set in the environment:
#   ENGINE_PATH          the engine's file or directory       artifacts/engines/qwen3-32b-w4a8.plan
#   MODEL_REPO           Triton's model repository            model_repository
#   TOKENIZER_DIR        the tokenizer                        artifacts/current/tokenizer
#   TOKENIZER_INFO       its info; manifest.json and schemas/ lie beside it
#                                                             artifacts/current/tokenizer_info.json
#   TRITON_IMAGE         the image, with llmstack in it       llmstack
#   TRITON_HTTP_PORT, TRITON_GRPC_PORT, TRITON_METRICS_PORT   8000, 8001, 8002
# and, beyond the guide:
#   TRITON_BIND_ADDRESS  where the ports are published        127.0.0.1
#   TRITON_GPUS          Docker's --gpus, or none             all where this machine has an NVIDIA GPU
#
# Triton's own ports lead past all policy to `tensorrt_llm` and the administrative APIs, and Docker publishes past a
# host's firewall such as ufw. So they are this machine's alone. Clients elsewhere come through the gateway
# (`llmstack gateway render`); TRITON_BIND_ADDRESS=0.0.0.0 opens the ports to everybody.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
engine=${ENGINE_PATH:-$root/artifacts/engines/qwen3-32b-w4a8.plan}
model_repo=${MODEL_REPO:-$root/model_repository}
tokenizer=${TOKENIZER_DIR:-$root/artifacts/current/tokenizer}
tokenizer_info=${TOKENIZER_INFO:-$root/artifacts/current/tokenizer_info.json}
image=${TRITON_IMAGE:-llmstack}
http_port=${TRITON_HTTP_PORT:-8000}
grpc_port=${TRITON_GRPC_PORT:-8001}
metrics_port=${TRITON_METRICS_PORT:-8002}
address=${TRITON_BIND_ADDRESS:-127.0.0.1}

refuse() {
    printf 'error: %s\nnext:  %s\n' "$1" "$2" >&2
    exit 2
}

# Absolute, and with links followed: Docker would make an empty directory of a path that it can't find.
need() {
    local kind=$1 name=$2 path=$3 next=$4
    test "-$kind" "$path" || refuse "$name is $path, which is not there" "$next"
    realpath "$path"
}

need_port() {
    [[ $2 =~ ^[0-9]{1,5}$ ]] && ((10#$2 >= 1 && 10#$2 <= 65535)) || refuse "$1 is $2" "give a port from 1 to 65535"
}

# What Docker is told of GPUs.
find_gpus() {
    if [[ -n ${TRITON_GPUS:-} ]]; then
        printf '%s' "$TRITON_GPUS"
    elif [[ -e /dev/nvidiactl || -e /dev/dxg ]] || nvidia-smi -L >/dev/null 2>&1; then
        printf all
    else
        printf none
    fi
}

is_dry=0
if [[ ${1:-} == --dry-run ]]; then
    is_dry=1
    shift
fi

engine=$(need e ENGINE_PATH "$engine" "set ENGINE_PATH to an engine's file or directory")
model_repo=$(need d MODEL_REPO "$model_repo" "set MODEL_REPO to the directory that holds ensemble/ and the other models")
tokenizer=$(need d TOKENIZER_DIR "$tokenizer" "set TOKENIZER_DIR to the directory that holds tokenizer.json")
tokenizer_info=$(need f TOKENIZER_INFO "$tokenizer_info" "llmstack tokenizer-info build makes it from the tokenizer")
beside=$(dirname "$tokenizer_info")
manifest=$(need f "the manifest" "$beside/manifest.json" "llmstack manifest build makes it; it lies beside TOKENIZER_INFO")
schemas=$(need d "the schemas' directory" "$beside/schemas" "it lies beside TOKENIZER_INFO; an empty one will do")
need_port TRITON_HTTP_PORT "$http_port"
need_port TRITON_GRPC_PORT "$grpc_port"
need_port TRITON_METRICS_PORT "$metrics_port"
[[ $address =~ ^([0-9.]+|\[[0-9a-fA-F:]+\])$ ]] ||
    refuse "TRITON_BIND_ADDRESS is $address" "give an IP address such as 127.0.0.1, 0.0.0.0 or [::1]"

release=/workspace/release
command=(docker run --rm --init --name "llmstack-$http_port"
    --read-only --tmpfs /tmp --shm-size 1g --stop-timeout 60
    --cap-drop ALL --security-opt no-new-privileges
    --volume "llmstack-state-$http_port:/var/lib/llmstack")

mount() {
    command+=(--volume "$1:$2:ro")
}

# The release as `llmstack serve` reads it ...
if [[ -d $engine ]]; then
    mount "$engine" $release/engine
else
    mount "$engine" $release/engine.plan
fi
mount "$tokenizer" $release/tokenizer
mount "$tokenizer_info" $release/tokenizer_info.json
mount "$manifest" $release/manifest.json
mount "$schemas" $release/schemas
mount "$model_repo" /workspace/model_repository
# ... and as model_repository/tensorrt_llm/config.pbtxt names it to TensorRT-LLM: a lone engine file is that of the only
# rank, with the config.json that lies beside it.
if [[ -d $engine ]]; then
    mount "$engine" /workspace/engine
else
    mount "$engine" /workspace/engine/rank0.engine
    if [[ -f $(dirname "$engine")/config.json ]]; then
        mount "$(realpath "$(dirname "$engine")/config.json")" /workspace/engine/config.json
    fi
fi
# File by file: nothing can be mounted into a directory that is itself mounted read-only.
for file in "$tokenizer"/*; do
    if [[ -f $file && $(basename "$file") != tokenizer_info.json ]]; then
        mount "$(realpath "$file")" "/workspace/tokenizer/$(basename "$file")"
    fi
done
mount "$tokenizer_info" /workspace/tokenizer/tokenizer_info.json

command+=(--env "LLMSTACK_RELEASE_DIR=$release"
    --publish "$address:$http_port:8000" --publish "$address:$grpc_port:8001" --publish "$address:$metrics_port:8002")
gpus=$(find_gpus)
if [[ $gpus != none ]]; then
    command+=(--gpus "$gpus")
fi
command+=("$image" "$@")

if ((is_dry)); then
    printf '%q ' "${command[@]}"
    printf '\n'
    exit
fi

title=$(docker image inspect --format '{{index .Config.Labels "org.opencontainers.image.title"}}' "$image" 2>/dev/null) ||
    refuse "there is no image $image here" "llmstack image build --tag $image, or set TRITON_IMAGE"
[[ $title == llm-serving-stack ]] ||
    refuse "the image $image holds no llmstack" "llmstack image build --triton-image $image, then leave TRITON_IMAGE out"
exec "${command[@]}"
