"""A store with a release that lacks only sign-offs, and one with every failure that the board shows."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from llm_policy.release.manifest import TASKS
from llm_policy.release.release import Release
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.release.build_manifest import Build
from llmstack.release.coverage import coverage_items, prompt_lengths
from llmstack.release.evidence import BENCH_GATE, SMOKE, WARMUP, write_evidence
from llmstack.release.publish import publish
from llmstack.release.store import ReleaseStore, point_link
from tests.releases import change_manifest, write_evaluation

WARM = {
    "what": "task judge",
    "prompt_tokens": 16,
    "cold_ms": 8.1,
    "warm_ms": 4.2,
    "queue_delay_us_max": 310,
    "fault": "",
}
SLICE = {
    "group": "judge",
    "id": "judge-1",
    "task": "judge",
    "verdict": "passed",
    "faults": [],
    "seconds": 0.02,
    "cost_usd": 0.0000123,
}
BUILD = Build(command="make engine", source_commit="0f" * 20, tensorrt_llm_version="1.1.0")


def write_run(release: Release, kind: str, *rows: dict[str, Any], **results: Any) -> None:
    """Write a run's record as its command does; the run passed when no row has a fault."""
    name = {WARMUP: "rows", SMOKE: "results"}.get(kind)
    record = {**results, **({name: list(rows)} if name else {})}
    passed = not any(row.get("fault") or row.get("faults") for row in rows)
    write_evidence(release, kind, passed=passed, began_s=time.time(), record=record)


def write_store(artifacts: Path) -> ReleaseStore:
    """`good` is in service; `bad` has a larger batch, a failed slice, a failed warm-up row and another cost policy."""
    store = ReleaseStore(artifacts)
    for name in ("good", "bad"):
        built = shutil.copytree(DEFAULT_RELEASE_DIR.resolve(), artifacts / "built" / name)
        (built / "build_manifest.json").unlink()  # publish writes one with BUILD
        if name == "bad":
            tree = json.loads((built / "manifest.json").read_text())
            change_manifest(built, engine={**tree["engine"], "max_batch_size": 8}, on_cost_breach="reject")
        release = publish(store, built, name, BUILD)
        good_manifest = json.loads((store.directory("good") / "manifest.json").read_text())
        write_evaluation(release.directory, "blueprint.json", **good_manifest)
    good, bad = (Release.open(store.directory(name)) for name in ("good", "bad"))
    warm = [
        {**WARM, "what": item.what, "prompt_tokens": length}
        for item in coverage_items(good)
        for length in prompt_lengths(good)
    ]
    write_run(good, WARMUP, *warm, num_guides_compiled=5, cold_ms_max=8.1)
    slices = [{**SLICE, "id": f"{task}-1", "task": task} for task in TASKS]
    write_run(good, SMOKE, *slices, num_slices=3, num_passed=3, cost_usd=0.0000369)
    write_run(bad, WARMUP, WARM, {**WARM, "prompt_tokens": 4_096, "fault": "num_input_tokens is 4095, expected 4096"})
    failed = {**SLICE, "id": "judge-2", "verdict": "failed", "faults": ['/verdict is "pass", expected "fail"']}
    write_run(bad, SMOKE, SLICE, failed, num_slices=2, num_passed=1)
    write_run(bad, BENCH_GATE, queue_delay_us_p99=9_400.0, max_queue_delay_us=2_500, max_batch_size=8)
    point_link(store.link, good.directory)
    return store
