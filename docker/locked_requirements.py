"""Prints the entries of a lock file for the packages that a list names, with their versions and hashes.

    python3 locked_requirements.py container.txt lock.txt > requirements.txt

The image installs a part of the lock: the rest is its base image's own. Needs nothing but the standard library.
"""

import re
import sys
from pathlib import Path


def locked_entries(names: list[str], lock: str) -> list[str]:
    """The lock's entries for `names`, in the lock's order. One name may have several, with markers.

    Raises:
        KeyError: the lock has no entry for one of the names.
    """
    entries = [entry for entry in re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE) if not entry.startswith("#")]
    wanted = {normalised(name) for name in names}
    found = [entry for entry in entries if normalised(entry) in wanted]
    if missing := wanted - {normalised(entry) for entry in found}:
        raise KeyError(f"lock.txt has no entry for {', '.join(sorted(missing))}: run `make lock`")
    return found


def normalised(entry: str) -> str:
    """The package name at the start of `entry`, normalised as PEP 503 says."""
    name = re.match(r"[A-Za-z0-9._-]+", entry)
    return re.sub(r"[-_.]+", "-", name[0]).lower() if name else ""


def read_names(path: Path) -> list[str]:
    """The package names in a list with one name a line and `#` comments."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


if __name__ == "__main__":
    print("".join(locked_entries(read_names(Path(sys.argv[1])), Path(sys.argv[2]).read_text(encoding="utf-8"))))
