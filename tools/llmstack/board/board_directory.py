"""Where board.db is: in `board/` of the service's state directory, or where earlier versions put it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from llmstack.board.board_database import FILE_NAME
from llmstack.paths import DEFAULT_STATE_DIR

FOLDER = "board"
_EARLIER = "llmstack-board"  # beside the default state directory, whichever state directory was chosen


class BoardDirectory(NamedTuple):
    """The directory of board.db; `unused` is one of an earlier version that is left alone."""

    path: Path
    unused: Path | None = None


def find_board_directory(state_dir: Path, default_state_dir: Path = DEFAULT_STATE_DIR) -> BoardDirectory:
    """The directory of the board that belongs to `state_dir`.

    With the default state directory, a board.db of an earlier version stays in use where it is. With another one it is
    `unused`, until the new place has its own board.db.
    """
    path, earlier = state_dir / FOLDER, default_state_dir.parent / _EARLIER
    if (path / FILE_NAME).exists() or not (earlier / FILE_NAME).exists():
        return BoardDirectory(path)
    if state_dir.absolute() == default_state_dir.absolute():
        return BoardDirectory(earlier)
    return BoardDirectory(path, earlier)
