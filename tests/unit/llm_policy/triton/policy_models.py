"""The policy's two models, called as by Triton: requests for them, and what they leave in ledger and log."""

import json
import shutil
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from llm_policy.ledger.database import FILE_NAME, open_read_only
from llm_policy.metrics.exposition import exposition
from llm_policy.release.release import Release
from llm_policy.text.tokenizer import Tokenizer
from llm_policy.triton.tensors import ENSEMBLE_INPUTS, POSTPROCESS_OUTPUTS, PREPROCESS_OUTPUTS
from llmstack.paths import DEFAULT_RELEASE_DIR
from tests.pb_utils import Answer, InferenceRequest
from tests.releases import change_manifest

RELEASE = Release.open(DEFAULT_RELEASE_DIR)
TOKENIZER = Tokenizer.load(RELEASE.tokenizer_dir)
CANARY_TOKEN = "canary-token"
HEADERS = {"X-Engine-Hash": RELEASE.manifest.engine.hash, "X-Quantisation": RELEASE.manifest.engine.quantisation}
CANARY_HEADERS = {"X-Tenant": "llmstack-canary", "X-Canary-Token": CANARY_TOKEN}
PREPROCESS_NAMES = [spec.name for spec in PREPROCESS_OUTPUTS]
POSTPROCESS_NAMES = [spec.name for spec in POSTPROCESS_OUTPUTS]
VERDICT = (
    '{"checks":{"person":true,"amount":true,"date":true,"place":true},"failing_criterion":"none",'
    '"verdict":"pass","score":9}'
)
_DATA_TYPES = {"TYPE_STRING": np.object_, "TYPE_INT32": np.int32, "TYPE_FP32": np.float32, "TYPE_BOOL": np.bool_}
_INPUT_TYPES = {spec.name: _DATA_TYPES.get(spec.data_type, np.uint64) for spec in ENSEMBLE_INPUTS}


def request(request_id: str, inputs: dict[str, Any] | None = None, /, **headers: str) -> InferenceRequest:
    """A client's request. An input is one row's value, a list with one value per row, or None for none."""
    arrays = {}
    for name, value in {"text_input": "hello", **(inputs or {})}.items():
        if value is None:
            continue
        values = [[v.encode() if isinstance(v, str) else v] for v in (value if isinstance(value, list) else [value])]
        arrays[name] = np.array(values, _INPUT_TYPES[name])
    parameters = {**HEADERS, "X-Request-Id": request_id, "X-Tenant": "acme", **headers}
    return InferenceRequest(arrays, PREPROCESS_NAMES, request_id, json.dumps(parameters).encode())


def guided(request_id: str, guide: str, guide_type: str = "regex", **headers: str) -> InferenceRequest:
    """A request with a guide of the client's own."""
    return request(request_id, {"guided_decoding_guide_type": guide_type, "guided_decoding_guide": guide}, **headers)


def engine_outputs(prepared: Answer, *texts: str) -> dict[str, Any]:
    """The inputs of postprocess: `texts` as the engine's answers to `prepared`, one per row, 1 ms after each other."""
    assert prepared.error is None, prepared.error
    rows = [TOKENIZER.encode_text(text).tolist() for text in texts]
    output_ids = np.zeros((len(rows), 1, max(map(len, rows))), np.int32)
    for number, ids in enumerate(rows):
        output_ids[number, 0, : len(ids)] = ids
    lengths = np.array([[len(ids)] for ids in rows], np.int32)
    clocks = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
    times = {name: np.full((len(rows), 1), 1_000_000 * (n + 1), np.int64) for n, name in enumerate(clocks)}
    decision = {"policy_decision": prepared.outputs["policy_decision"]}
    return {"output_ids": output_ids, "sequence_length": lengths, "num_output_tokens": lengths, **times, **decision}


def finished(prepared: Answer, *texts: str, outputs: Any = POSTPROCESS_NAMES, **changes: Any) -> InferenceRequest:
    """The request that postprocess receives once the engine has answered `prepared` with `texts`."""
    return InferenceRequest({**engine_outputs(prepared, *texts), **changes}, outputs)


def text_of(answer: Answer, row: int = 0) -> str:
    assert answer.error is None, answer.error
    return str(answer.outputs["text_output"][row, 0].decode())


def ledger_rows(state_dir: Path, request_id: str) -> list[dict[str, Any]]:
    """The ledger's rows of one request, in their order."""
    with closing(open_read_only(state_dir / FILE_NAME)) as connection:
        cursor = connection.execute("SELECT * FROM request WHERE request_id = ? ORDER BY id", (request_id,))
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]


def states(state_dir: Path, *request_ids: str) -> list[tuple[str, str]]:
    """State and error code of each row of these requests."""
    rows = [row for request_id in request_ids for row in ledger_rows(state_dir, request_id)]
    return [(row["state"], row["code"]) for row in rows]


def log_lines(output: str) -> list[dict[str, Any]]:
    """The lines of the request log in a stub's standard output."""
    return [line for line in map(json.loads, output.splitlines()) if line["event"] == "request"]


def read_metrics(state_dir: Path, series: dict[str, tuple[str, Any]]) -> dict[str, float]:
    """The values of `series`, each a metric's name and its labels."""
    values = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition(state_dir).decode())
        for sample in family.samples
    }
    return {name: values[key] for name, key in series.items()}


def release_with(directory: Path, **engine: Any) -> Path:
    """A copy of the committed release with changes to the manifest's section `engine`."""
    release = shutil.copytree(DEFAULT_RELEASE_DIR, directory / "release")
    tree = json.loads((release / "manifest.json").read_text())
    change_manifest(release, engine={**tree["engine"], **engine})
    return release


@contextmanager
def raising(monkeypatch: Any, owner: Any, name: str, error: BaseException) -> Any:
    """Let calls of `owner.name` raise `error`."""

    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        yield
