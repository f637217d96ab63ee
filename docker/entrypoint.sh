#!/bin/sh
# Runs the doctor's checks and then `llmstack serve` with the given arguments. If the first argument is `llmstack`, runs
# that command instead.
set -eu

if [ "${1:-}" = llmstack ]; then
    exec "$@"
fi
# `serve` runs the checks itself, so that they apply to its options. LLMSTACK_SKIP_DOCTOR=1 skips them.
if [ "${LLMSTACK_SKIP_DOCTOR:-0}" != 1 ]; then
    set -- --examine "$@"
fi
exec llmstack serve "$@"
