"""Where things lie: in a checkout, or under the directory in which an installed `llmstack` runs."""

from __future__ import annotations

import os
from pathlib import Path

import llm_policy

_CHECKOUT = Path(__file__).resolve().parents[2]

PROJECT_ROOT = _CHECKOUT if (_CHECKOUT / "model_repository").is_dir() else Path.cwd()
MODEL_REPOSITORY = PROJECT_ROOT / "model_repository"
DEFAULT_RELEASE_DIR = PROJECT_ROOT / "artifacts" / "current"

# What the server's Python stubs need on their path to import `llm_policy` and `portable_engine`.
SOURCE_ROOT = Path(llm_policy.__file__).resolve().parents[1]

# The user's own (XDG): it outlives a reboot, unlike /tmp.
DEFAULT_STATE_DIR = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "llmstack"
