#!/bin/sh
# Examines the machine, then becomes `llmstack serve`. Arguments are those of `serve`; a first argument `llmstack` runs
# any other command instead.
set -eu

if [ "${1:-}" = llmstack ]; then
    exec "$@"
fi
# Examined is what `serve` is told, so it is `serve` that examines.
if [ "${LLMSTACK_SKIP_DOCTOR:-0}" != 1 ]; then
    set -- --examine "$@"
fi
exec llmstack serve "$@"
