#!/usr/bin/env bash
# Serves one release in the foreground, from the image that `llmstack image build` builds. Ctrl-C stops it.
#
#   docker/serve_triton.sh [--dry-run] [arguments of `llmstack serve`]
#
# Environment variables and their defaults:
#   ENGINE_PATH          the engine's file or directory       artifacts/engines/qwen3-32b-w4a8.plan
#   MODEL_REPO           Triton's model repository            model_repository
#   TOKENIZER_DIR        the tokenizer's directory            artifacts/current/tokenizer
#   TOKENIZER_INFO       the tokenizer info                   artifacts/current/tokenizer_info.json
#                        manifest.json and schemas/ must be in the same directory
#   TRITON_IMAGE         the image, built with llmstack       llmstack, or llmstack-vllm with LLMSTACK_ENGINE=vllm
#   TRITON_HTTP_PORT     published HTTP port                  8000
#   TRITON_GRPC_PORT     published gRPC port                  8001
#   TRITON_METRICS_PORT  published metrics port               8002
#   TRITON_OPENAI_PORT   published port of the OpenAI API     8005
#   TRITON_BIND_ADDRESS  address of the published ports       127.0.0.1
#   TRITON_GPUS          value of Docker's --gpus, or none    all if this machine has an NVIDIA GPU, else none
#   TRITON_SHM_SIZE      value of Docker's --shm-size         1g, or 8g for vllm and trtllm-api: NCCL needs it
#   LLMSTACK_ENGINE          engine, such as vllm             the one that the release holds
#   LLMSTACK_ENGINE_OPTIONS  options of the engine itself     none
#                        such as "tensor_parallel_size=2 max_model_len=8192"
#   LLMSTACK_REQUIRE_API_KEYS  1: requests need a tenant's key    0 on a loopback TRITON_BIND_ADDRESS, else 1
#
# Triton's own ports give access to `tensorrt_llm` without the policy and to the administrative APIs; Docker bypasses
# a host firewall such as ufw. So they are published on this machine only. Remote clients use the gateway
# (`llmstack gateway render`). TRITON_BIND_ADDRESS=0.0.0.0 opens the ports to the network.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
engine=${ENGINE_PATH:-$root/artifacts/engines/qwen3-32b-w4a8.plan}
model_repo=${MODEL_REPO:-$root/model_repository}
tokenizer=${TOKENIZER_DIR:-$root/artifacts/current/tokenizer}
tokenizer_info=${TOKENIZER_INFO:-$root/artifacts/current/tokenizer_info.json}
http_port=${TRITON_HTTP_PORT:-8000}
grpc_port=${TRITON_GRPC_PORT:-8001}
metrics_port=${TRITON_METRICS_PORT:-8002}
openai_port=${TRITON_OPENAI_PORT:-8005}
address=${TRITON_BIND_ADDRESS:-127.0.0.1}

fail() {
    printf 'error: %s\nnext:  %s\n' "$1" "$2" >&2
    exit 2
}

# Prints the absolute path without links. Exits when it does not exist: Docker would create an empty directory instead.
require() {
    local kind=$1 name=$2 path=$3 next=$4
    test "-$kind" "$path" || fail "$name is $path, which does not exist" "$next"
    realpath "$path"
}

require_port() {
    [[ $2 =~ ^[0-9]{1,5}$ ]] && ((10#$2 >= 1 && 10#$2 <= 65535)) || fail "$1 is $2" "give a port from 1 to 65535"
}

# Prints the value of Docker's --gpus, or none.
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

# The engine's name: an argument goes before the variable, as in `llmstack serve`.
kind=${LLMSTACK_ENGINE:-}
previous=
for argument in "$@"; do
    [[ $previous != --engine ]] || kind=$argument
    [[ $argument != --engine=* ]] || kind=${argument#--engine=}
    previous=$argument
done
case $kind in
vllm) image=${TRITON_IMAGE:-llmstack-vllm} build_option=" --engine vllm" ;;
*) image=${TRITON_IMAGE:-llmstack} build_option= ;;
esac
# Engines with processes of their own read the release: a Hugging Face model in a directory.
case $kind in
vllm | trtllm-api) has_model=1 shm_size=${TRITON_SHM_SIZE:-8g} ;;
*) has_model=0 shm_size=${TRITON_SHM_SIZE:-1g} ;;
esac

engine=$(require e ENGINE_PATH "$engine" "set ENGINE_PATH to an engine's file or directory")
if ((has_model)) && [[ ! -d $engine ]]; then
    fail "ENGINE_PATH is $engine, which is no directory" "set ENGINE_PATH to the model's directory for $kind"
fi
model_repo=$(require d MODEL_REPO "$model_repo" \
    "set MODEL_REPO to the directory that holds ensemble/ and the other models")
tokenizer=$(require d TOKENIZER_DIR "$tokenizer" "set TOKENIZER_DIR to the directory that holds tokenizer.json")
tokenizer_info=$(require f TOKENIZER_INFO "$tokenizer_info" \
    "create it from the tokenizer with llmstack tokenizer-info build")
release_dir=$(dirname "$tokenizer_info")
manifest=$(require f "the manifest" "$release_dir/manifest.json" \
    "create it with llmstack manifest build, in the directory of TOKENIZER_INFO")
schemas=$(require d "the schemas' directory" "$release_dir/schemas" \
    "create it in the directory of TOKENIZER_INFO; it may be empty")
require_port TRITON_HTTP_PORT "$http_port"
require_port TRITON_GRPC_PORT "$grpc_port"
require_port TRITON_METRICS_PORT "$metrics_port"
require_port TRITON_OPENAI_PORT "$openai_port"
[[ $address =~ ^([0-9.]+|\[[0-9a-fA-F:]+\])$ ]] ||
    fail "TRITON_BIND_ADDRESS is $address" "give an IP address such as 127.0.0.1, 0.0.0.0 or [::1]"

mounted_release=/workspace/release
command=(docker run --rm --init --name "llmstack-$http_port"
    --read-only --tmpfs /tmp --shm-size "$shm_size" --stop-timeout 60
    --cap-drop ALL --security-opt no-new-privileges
    --volume "llmstack-state-$http_port:/var/lib/llmstack")

mount() {
    command+=(--volume "$1:$2:ro")
}

# The release as `llmstack serve` reads it.
if [[ -d $engine ]]; then
    mount "$engine" $mounted_release/engine
else
    mount "$engine" $mounted_release/engine.plan
fi
mount "$tokenizer" $mounted_release/tokenizer
mount "$tokenizer_info" $mounted_release/tokenizer_info.json
mount "$manifest" $mounted_release/manifest.json
mount "$schemas" $mounted_release/schemas
mount "$model_repo" /workspace/model_repository
# The same files at the paths in model_repository/tensorrt_llm/config.pbtxt. A single engine file is that of rank 0; its
# config.json is in the same directory.
mount_for_tensorrt_llm() {
    if [[ -d $engine ]]; then
        mount "$engine" /workspace/engine
    else
        mount "$engine" /workspace/engine/rank0.engine
        if [[ -f $(dirname "$engine")/config.json ]]; then
            mount "$(realpath "$(dirname "$engine")/config.json")" /workspace/engine/config.json
        fi
    fi
    # Mounts each file on its own: tokenizer_info.json can't be mounted into a directory that is mounted read-only.
    for file in "$tokenizer"/*; do
        if [[ -f $file && $(basename "$file") != tokenizer_info.json ]]; then
            mount "$(realpath "$file")" "/workspace/tokenizer/$(basename "$file")"
        fi
    done
    mount "$tokenizer_info" /workspace/tokenizer/tokenizer_info.json
}
if ! ((has_model)); then
    mount_for_tensorrt_llm
fi

command+=(--env "LLMSTACK_RELEASE_DIR=$mounted_release"
    --publish "$address:$http_port:8000" --publish "$address:$grpc_port:8001" --publish "$address:$metrics_port:8002"
    --publish "$address:$openai_port:8005")
gpus=$(find_gpus)
if [[ $gpus != none ]]; then
    command+=(--gpus "$gpus")
fi
# Inside the container the server listens on every interface, whoever can reach the published ports.
if [[ -z ${LLMSTACK_REQUIRE_API_KEYS:-} && ($address == 127.* || $address == "[::1]") ]]; then
    LLMSTACK_REQUIRE_API_KEYS=0
fi
for name in LLMSTACK_ENGINE LLMSTACK_ENGINE_OPTIONS LLMSTACK_REQUIRE_API_KEYS; do
    if [[ -n ${!name:-} ]]; then
        command+=(--env "$name=${!name}")
    fi
done
command+=("$image" "$@")

if ((is_dry)); then
    printf '%q ' "${command[@]}"
    printf '\n'
    exit
fi

title=$(docker image inspect --format '{{index .Config.Labels "org.opencontainers.image.title"}}' "$image" 2>/dev/null) ||
    fail "there is no image $image here" "run llmstack image build$build_option --tag $image, or set TRITON_IMAGE"
[[ $title == llm-serving-stack ]] ||
    fail "the image $image does not contain llmstack" \
        "run llmstack image build$build_option --triton-image $image, then unset TRITON_IMAGE"
exec "${command[@]}"
