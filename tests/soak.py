"""Tests that take too long for every run. `make soak` enables them with LLMSTACK_SOAK=1."""

import os

import pytest

IS_SOAK = os.environ.get("LLMSTACK_SOAK") == "1"
ONLY_IN_SOAK = pytest.mark.skipif(not IS_SOAK, reason="runs only with LLMSTACK_SOAK=1 (make soak)")
