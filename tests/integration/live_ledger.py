"""Helpers for tests that examine a server's ledger and metrics."""

import json
import shutil
from contextlib import closing

from prometheus_client.parser import text_string_to_metric_families

from llm_policy.ledger.database import FILE_NAME, open_read_only
from llm_policy.metrics.exposition import exposition
from llmstack.paths import DEFAULT_RELEASE_DIR, MODEL_REPOSITORY


def two_stubs(directory):
    """Copy the model repository, with two instances of each step."""
    repository = shutil.copytree(MODEL_REPOSITORY, directory / "models")
    for step in ("preprocess", "postprocess"):
        config = repository / step / "config.pbtxt"
        text = config.read_text()
        assert "count: 1 kind" in text
        config.write_text(text.replace("count: 1 kind", "count: 2 kind"))
    return repository


def release_with(directory, **changes):
    """Copy the embedded release, with `changes` to sections of its manifest."""
    release = shutil.copytree(DEFAULT_RELEASE_DIR, directory / "release")
    manifest = json.loads((release / "manifest.json").read_text())
    for section, values in changes.items():
        manifest[section] = {**manifest[section], **values} if isinstance(values, dict) else values
    (release / "manifest.json").write_text(json.dumps(manifest))
    return release


def ledger_of(state_dir):
    """A read-only connection to the ledger, as a context manager."""
    return closing(open_read_only(state_dir / FILE_NAME))


def metrics_of(state_dir):
    """The value of each series by (name, sorted labels)."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition(state_dir).decode())
        for sample in family.samples
    }
