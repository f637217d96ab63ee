"""The settings of a board."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from llmstack.board.defaults import KEEP_ALERTS_DAYS as KEEP_ALERTS_DAYS
from llmstack.paths import DEFAULT_STATE_DIR
from llmstack.release.promotion_gates import NUM_SIGN_OFFS
from llmstack.release.store import ReleaseStore


class BoardSettings(NamedTuple):
    """Paths, URLs and limits.

    `public_url` is the URL that browsers use; `webhook_secrets` is a file; `state_dir` is the service's.
    """

    database: Path
    store: ReleaseStore
    webhook_secrets: Path
    ready_url: str
    public_url: str
    num_sign_offs: int = NUM_SIGN_OFFS
    keep_alerts_days: int = KEEP_ALERTS_DAYS
    state_dir: Path = DEFAULT_STATE_DIR
