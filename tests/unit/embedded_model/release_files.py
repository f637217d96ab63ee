"""The committed release, and the files of a release."""

from tests.import_graph import ROOT

COMMITTED = ROOT / "artifacts" / "releases" / "embedded"


def read_files(directory):
    """Path → bytes of what a build writes: without the build manifest, which has the time."""
    paths = (path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != "build_manifest.json")
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}
