"""Release checks on a live server, and the checks that the models do themselves when they load."""

import json
import shutil
import subprocess
import sys

import pytest

from embedded_model.release.builder import build_release
from llm_policy.release.release import Release
from llmstack.cli.release.smoke import DEFAULT_SLICES
from llmstack.client.ensemble_client import ServerUrls
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.release.checks.slice_file import read_slices
from llmstack.release.checks.smoke import PASSED, run_slices
from llmstack.release.checks.target import Target
from llmstack.server.error import ServerStartError
from llmstack.server.process import TritonServer
from tests.releases import change_manifest
from tests.soak import ONLY_IN_SOAK

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("engine/config.json", "engine.hash: manifest has sha256:"),
        ("tokenizer_info.json", "tokenizer.info_hash: manifest has sha256:"),
        ("tokenizer/tokenizer.json", "tokenizer/tokenizer.json differs from tokenizer_info.json"),
    ],
)
def test_a_changed_file_keeps_the_models_from_loading_and_the_reason_is_reported(tmp_path, name, reason):
    release = tmp_path / "release"
    shutil.copytree(DEFAULT_RELEASE_DIR, release)
    path = release / name
    path.write_text(path.read_text() + "\n")
    server = TritonServer(release, engine="echo", state_dir=tmp_path / "state")
    with pytest.raises(ServerStartError) as raised, server:
        pass
    assert reason in str(raised.value)
    assert reason in (tmp_path / "state" / "tritonserver.log").read_text()


def test_the_embedded_release_passes_the_shipped_slices(server):
    target = Target(Release.open(DEFAULT_RELEASE_DIR), ServerUrls(server.http_url, server.grpc_url), server.metrics_url)
    slices = read_slices(DEFAULT_SLICES)
    results = run_slices(target, slices, 4, lambda result: None)
    assert [result for result in results if result.status != PASSED] == []
    assert {result.task for result in results} == set(target.release.manifest.tasks)


@pytest.mark.parametrize(("limit_us", "passes"), [(60_000_000, True), pytest.param(0, False, marks=ONLY_IN_SOAK)])
def test_a_bench_gate_passes_within_the_manifests_queue_delay(tmp_path, limit_us, passes):
    release = build_release(tmp_path / "b8", seed=1)
    tree = json.loads((release.directory / "manifest.json").read_text())
    thresholds = {**tree["thresholds"], "max_queue_delay_us": limit_us}
    change_manifest(release.directory, engine={**tree["engine"], "max_batch_size": 8}, thresholds=thresholds)
    sizes = ("--prompt-tokens", "16", "--completion-tokens", "2", "--requests", "100")
    command = ("bench", "gate", "--max-batch-size", "8", "--release", str(release.directory), *sizes, "--json")
    done = subprocess.run([sys.executable, "-m", "llmstack", *command], capture_output=True, text=True, check=False)
    assert done.returncode == (0 if passes else 1), done.stderr
    record = json.loads((release.directory / "bench_gate.json").read_text())
    assert (record["passed"], record["max_batch_size"], record["concurrency"]) == (passes, 8, 8)
    assert (record["max_queue_delay_us"], record["one_more"]["concurrency"]) == (limit_us, 9)
