"""The models behind engine hashes, as the manifests on this machine name them."""

from __future__ import annotations

from pathlib import Path

from llm_policy.release.manifest import ManifestError, read_manifest

_MANIFEST = "manifest.json"
_STORE = "releases"  # the directory that a release store keeps its releases in


def read_engine_models(release_dir: Path) -> dict[str, str]:
    """The model of each engine by its hash: of this release and, if it is in a release store, of the others there.

    A manifest that can't be read is left out.
    """
    directory = release_dir.resolve()
    others = sorted(directory.parent.iterdir()) if directory.parent.name == _STORE else []
    models: dict[str, str] = {}
    for each in (*others, directory):
        try:
            manifest, _ = read_manifest(each / _MANIFEST)
        except (OSError, ManifestError):
            continue
        models[manifest.engine.hash] = manifest.engine.model
    return models
