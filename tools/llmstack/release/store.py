"""The release store: `<artifacts>/releases/<name>/`, and `<artifacts>/current`, a link to the release in service."""

from __future__ import annotations

import os
import re
from pathlib import Path

from llmstack.paths import PROJECT_ROOT
from llmstack.release.build_manifest import FILE_NAME

DEFAULT_ARTIFACTS_DIR = PROJECT_ROOT / "artifacts"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class StoreError(ValueError):
    """There is no such release, or the name is not allowed for one."""


class ReleaseStore:
    """The releases under `artifacts`, which need not exist yet."""

    def __init__(self, artifacts: Path) -> None:
        self.releases_dir = artifacts.resolve() / "releases"
        self.link = artifacts.resolve() / "current"

    def names(self) -> list[str]:
        """The names of the directories under `releases/` that are allowed for a release, sorted."""
        if not self.releases_dir.is_dir():
            return []
        return sorted(path.name for path in self.releases_dir.iterdir() if path.is_dir() and _NAME.fullmatch(path.name))

    def directory(self, name: str) -> Path:
        """The directory of the release `name`, which may also be given as that directory's path.

        Raises:
            StoreError: there is no such release; the text lists the existing ones.
        """
        if name in self.names():
            return self.releases_dir / name
        path = Path(name)
        if path.is_dir() and path.resolve().parent == self.releases_dir.resolve():
            return path.resolve()
        raise StoreError(f"no release {name!r} in {self.releases_dir} (known: {', '.join(self.names()) or 'none'})")

    def new_directory(self, name: str) -> Path:
        """The path for a new release of this name.

        Raises:
            StoreError: the name is not allowed, or taken.
        """
        if not _NAME.fullmatch(name):
            raise StoreError(f"{name!r} is not allowed as a release's name: letters, digits and ._- (64 at most)")
        if (self.releases_dir / name).exists():
            raise StoreError(f"{self.releases_dir} already has a release {name!r}")
        return self.releases_dir / name

    def is_published(self, name: str) -> bool:
        """Whether `llmstack release publish` has registered the release."""
        return (self.releases_dir / name / FILE_NAME).is_file()

    def in_service(self) -> Path | None:
        """The directory that `current` leads to; None when it leads nowhere."""
        return self.link.resolve() if self.link.is_dir() else None


def link_path(link: Path) -> Path:
    """The link's own absolute path, not its target's, so that one link always has the same spelling."""
    return link.parent.resolve() / link.name


def check_switchable(link: Path) -> None:
    """Check that `link` can be pointed elsewhere, without changing it.

    Raises:
        OSError: its directory can't be written, or it is not a link.
    """
    _check_is_link(link)
    _new_link(link, link).unlink()


def point_link(link: Path, target: Path | None) -> None:
    """Point `link` to `target`, or delete it, atomically: a killed call leaves it as it was.

    Raises:
        OSError: the directory of `link` can't be written, or `link` is not a link.
    """
    _check_is_link(link)
    if target is None:
        link.unlink(missing_ok=True)
    elif link.is_symlink() and link.readlink() == _relative(link, target):
        return
    else:
        _new_link(link, target).replace(link)
    directory = os.open(link.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _check_is_link(link: Path) -> None:
    if link.exists() and not link.is_symlink():
        raise FileExistsError(17, "is a directory, not a link that can be switched", str(link))


def _new_link(link: Path, target: Path) -> Path:
    """A temporary link to `target` beside `link`, to be renamed over it."""
    new_link = link.with_name(f".{link.name}.new")
    new_link.unlink(missing_ok=True)
    new_link.symlink_to(_relative(link, target))
    return new_link


def _relative(link: Path, target: Path) -> Path:
    return Path(os.path.relpath(target, link.parent.resolve()))
