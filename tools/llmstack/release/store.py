"""Where releases lie: `<artifacts>/releases/<name>/`, and `<artifacts>/current`, a link to the one in service."""

from __future__ import annotations

import os
import re
from pathlib import Path

from llmstack.release.build_manifest import FILE_NAME

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class StoreError(ValueError):
    """No such release, or no fit name for one."""


class ReleaseStore:
    """The releases under `artifacts`; the directory itself need not be there yet."""

    def __init__(self, artifacts: Path) -> None:
        self.releases_dir = artifacts.resolve() / "releases"
        self.link = artifacts.resolve() / "current"

    def names(self) -> list[str]:
        """Every directory under `releases/` that is fit to be a release's, by name."""
        if not self.releases_dir.is_dir():
            return []
        return sorted(path.name for path in self.releases_dir.iterdir() if path.is_dir() and _NAME.fullmatch(path.name))

    def directory(self, name: str) -> Path:
        """The directory of the release `name`; a path that ends in it will do.

        Raises:
            StoreError: there is none; the text lists those there are.
        """
        if name in self.names():
            return self.releases_dir / name
        path = Path(name)
        if path.is_dir() and path.resolve().parent == self.releases_dir.resolve():
            return path.resolve()
        raise StoreError(f"no release {name!r} in {self.releases_dir} (there: {', '.join(self.names()) or 'none'})")

    def new_directory(self, name: str) -> Path:
        """Where a release of this name would lie.

        Raises:
            StoreError: the name is not fit for a directory, or taken.
        """
        if not _NAME.fullmatch(name):
            raise StoreError(f"{name!r} is no name for a release: letters, digits and ._- (64 at most)")
        if (self.releases_dir / name).exists():
            raise StoreError(f"there is a release {name!r} in {self.releases_dir} already")
        return self.releases_dir / name

    def is_published(self, name: str) -> bool:
        """Whether `llmstack release publish` has registered it."""
        return (self.releases_dir / name / FILE_NAME).is_file()

    def in_service(self) -> Path | None:
        """The directory that `current` leads to; None where it leads nowhere."""
        return self.link.resolve() if self.link.is_dir() else None


def link_path(link: Path) -> Path:
    """The one spelling of a link's own path, whatever it leads to."""
    return link.parent.resolve() / link.name


def check_switchable(link: Path) -> None:
    """Try whether `link` could be pointed elsewhere; nothing changes.

    Raises:
        OSError: its directory can't be written, or it is no link.
    """
    _check_link(link)
    _fresh_link(link, link).unlink()


def point_link(link: Path, target: Path | None) -> None:
    """Let `link` lead to `target` from one moment to the next, or be gone; killed half-way, it is as it was.

    Raises:
        OSError: the directory of `link` can't be written, or `link` is no link.
    """
    _check_link(link)
    if target is None:
        link.unlink(missing_ok=True)
    elif link.is_symlink() and link.readlink() == _relative(link, target):
        return
    else:
        _fresh_link(link, target).replace(link)
    directory = os.open(link.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _check_link(link: Path) -> None:
    if link.exists() and not link.is_symlink():
        raise FileExistsError(17, "is a directory, no link that can be switched", str(link))


def _fresh_link(link: Path, target: Path) -> Path:
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(_relative(link, target))
    return fresh


def _relative(link: Path, target: Path) -> Path:
    return Path(os.path.relpath(target, link.parent.resolve()))
