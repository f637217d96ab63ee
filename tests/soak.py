"""What is too long for every run: `make soak` asks for it with LLMSTACK_SOAK=1."""

import os

import pytest

IS_SOAK = os.environ.get("LLMSTACK_SOAK") == "1"
ONLY_IN_SOAK = pytest.mark.skipif(not IS_SOAK, reason="make soak: LLMSTACK_SOAK=1 asks for it")
