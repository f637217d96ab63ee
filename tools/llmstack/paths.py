"""Default locations: in a checkout, below the current directory, or in the files that the wheel carries.

An installed `llmstack` uses what lies below the current directory, as in the container image, and the wheel's own
model repository, embedded release and slices where nothing lies there.
"""

from __future__ import annotations

import os
from pathlib import Path

import llm_policy

_CHECKOUT = Path(__file__).resolve().parents[2]
_BUNDLE = Path(__file__).resolve().parent / "bundle"  # only in a wheel: see pyproject.toml

PROJECT_ROOT = _CHECKOUT if (_CHECKOUT / "model_repository").is_dir() else Path.cwd()


def _default(relative: str, bundled: str) -> Path:
    path = PROJECT_ROOT / relative
    return path if path.exists() or not _BUNDLE.is_dir() else _BUNDLE / bundled


MODEL_REPOSITORY = _default("model_repository", "model_repository")
DEFAULT_ARTIFACTS_DIR = PROJECT_ROOT / "artifacts"
DEFAULT_RELEASE_DIR = _default("artifacts/current", "artifacts/releases/embedded")
DEFAULT_SLICES_DIR = _default("artifacts/slices", "artifacts/slices")

# On the path of the server's Python stubs, which import `llm_policy` and `portable_engine` from it.
SOURCE_ROOT = Path(llm_policy.__file__).resolve().parents[1]

# Per user (XDG base directories); unlike /tmp it survives a reboot.
DEFAULT_STATE_DIR = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "llmstack"
