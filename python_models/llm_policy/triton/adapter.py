"""Between Triton's Python backend and the steps: tensors in, tensors out, one declared error per refused request.

One exception that leaves `execute` would fail every request of its batch and show the client file paths; here every
fault is caught at its own request. Nothing in this module decides anything about a request.
"""

from __future__ import annotations

import gc
import os
import uuid
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from llm_policy import __version__
from llm_policy.errors import Code, InternalFault, InvalidRequest, PolicyError, Unavailable
from llm_policy.guidance.desk import GuideDesk
from llm_policy.guidance.guide import GuideResolver
from llm_policy.guidance.guide_report import GuidePlan
from llm_policy.guidance.verdict_cache import VerdictCache
from llm_policy.manifest import Manifest
from llm_policy.release import Release
from llm_policy.request import Array, Column
from llm_policy.steps.postprocess import Answer, Postprocess
from llm_policy.steps.preprocess import Preprocess, Row
from llm_policy.tokenizer import Tokenizer
from llm_policy.triton.metrics import AnswerMetrics
from llm_policy.triton.request_log import RequestLog, write_lines
from llm_policy.triton.tensor_cache import TensorCache, new_tensor

RELEASE_DIR = "LLMSTACK_RELEASE_DIR"
STATE_DIR = "LLMSTACK_STATE_DIR"
DEFAULT_RELEASE_DIR = "artifacts/current"
# Values that differ from request to request: keeping their tensors would only push out those that repeat.
NEVER_REPEATS = frozenset(
    ("input_ids", "policy_decision", "text_output", "queue_delay_us", "time_to_first_token_us", "total_time_us")
)


class PreprocessModel:
    """The `preprocess` model.

    Requests whose guides are known answer from `execute`; the others are answered from the desk's one thread, so a
    new guide's compile holds up nobody else.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the release; whatever is wrong with it keeps the model from loading and says why."""
        release = _open_release()
        manifest = release.manifest
        resolver = GuideResolver(
            manifest.guidance, {name: release.schema_text(name) for name in sorted(manifest.schemas)}
        )
        self._step = Preprocess(manifest, Tokenizer.load(release.tokenizer_dir), resolver)
        self._cache = TensorCache()
        cache = VerdictCache(_state_file("guides.db"), _verdict_context(manifest))
        self._desk = GuideDesk(manifest.guidance, release.tokenizer_info_path, cache, _internal_fault)
        self._desk.register(list(resolver.registered.values()))
        gc.freeze()  # what is loaded now stays: no collection need look at it again

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request, or None for those that wait at the desk."""
        return [_guard(self._answer, request) for request in requests]

    def finalize(self) -> None:
        """Stop the desk and its sandbox."""
        self._desk.close()

    def _answer(self, request: Any) -> Any:
        rows = self._step.run(_arrays(request), _parameters(request), request.request_id())
        plans = self._plans(rows)
        unknown = [row.guide for row, plan in zip(rows, plans, strict=True) if row.guide and plan is None]
        if unknown:
            sender = request.get_response_sender()
            self._desk.prove(unknown, lambda refusal: self._answer_late(sender, rows, refusal))
            return None
        return self._pack(rows, plans)

    def _plans(self, rows: list[Row]) -> list[GuidePlan | None]:
        return [self._desk.verdict(row.guide) if row.guide else None for row in rows]

    def _answer_late(self, sender: Any, rows: list[Row], refusal: PolicyError | None) -> None:
        response = _refuse(refusal) if refusal is not None else _guard(lambda r: self._pack(r, self._plans(r)), rows)
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _pack(self, rows: list[Row], plans: list[GuidePlan | None]) -> Any:
        return _response(_tensors(self._cache, self._step.pack(rows, plans)))


class PostprocessModel:
    """The `postprocess` model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the release; whatever is wrong with it keeps the model from loading and says why."""
        release = _open_release()
        self._step = Postprocess(release.manifest, Tokenizer.load(release.tokenizer_dir))
        self._cache = TensorCache()
        self._log = RequestLog()
        self._metrics = AnswerMetrics()
        gc.freeze()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request."""
        responses = [_guard(self._answer, request) for request in requests]
        self._log.flush()
        return responses

    def _answer(self, request: Any) -> Any:
        answers = self._step.run(_arrays(request))
        for answer in answers:
            self._metrics.count_flags(answer.flags)
            if answer.decision.schema_id:
                self._log.add(_guided_call(answer))
        return _response(_tensors(self._cache, self._step.pack(answers, set(request.requested_output_names()))))


def _open_release() -> Release:
    return Release.open(os.environ.get(RELEASE_DIR, DEFAULT_RELEASE_DIR)).verify_files()


def _state_file(name: str) -> Path | None:
    """A file in the state directory; None where the server was started without one."""
    directory = os.environ.get(STATE_DIR)
    return Path(directory) / name if directory else None


def _verdict_context(manifest: Manifest) -> str:
    """All that verdicts on guides depend on besides the guide."""
    limits = manifest.guidance.limits.model_dump_json()
    return "\n".join((manifest.tokenizer.info_hash, metadata.version("xgrammar"), __version__, limits))


def _parameters(request: Any) -> str:
    """The request's parameters as JSON text, forwarded headers among them."""
    try:
        return str(request.parameters())
    except UnicodeDecodeError:
        raise InvalidRequest(Code.INVALID_HEADER, "a header holds bytes that are no printable ASCII") from None


def _arrays(request: Any) -> dict[str, Array]:
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def _tensors(cache: TensorCache, columns: Mapping[str, Array | Column]) -> list[Any]:
    return [
        new_tensor(name, values) if name in NEVER_REPEATS else cache.tensor(name, values)
        for name, values in columns.items()
    ]


def _response(tensors: list[Any]) -> Any:
    return pb_utils.InferenceResponse(tensors)


def _guard(answer: Callable[[Any], Any], subject: Any) -> Any:
    """`answer(subject)`, or the response that says why not; nothing but a process exit gets through."""
    try:
        return answer(subject)
    except PolicyError as error:
        return _refuse(error)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in a native library is no Exception
        return _refuse(_internal_fault(error))


def _refuse(error: PolicyError) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), _status(error)))


def _status(error: PolicyError) -> Any:
    # pb_utils fills in TritonError only after this module is imported: no table at module level.
    if isinstance(error, InvalidRequest):
        return pb_utils.TritonError.INVALID_ARG
    if isinstance(error, Unavailable):
        return pb_utils.TritonError.UNAVAILABLE
    return pb_utils.TritonError.INTERNAL


def _internal_fault(error: BaseException) -> InternalFault:
    """Log where an unexpected fault happened, without its text: that may quote a prompt."""
    reference = uuid.uuid4().hex[:12]
    where = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        where.append(f"{Path(code.co_filename).stem}.{code.co_name}:{trace.tb_lineno}")
        trace = trace.tb_next
    line = {"event": "internal_fault", "reference": reference, "error": type(error).__name__, "at": where}
    write_lines([line])  # not by Triton's logger: faults on the desk's thread end here too
    return InternalFault(reference)


def _guided_call(answer: Answer) -> dict[str, Any]:
    decision = answer.decision
    return {
        "event": "guided_call",
        "request_id": decision.request_id,
        "task": decision.task,
        "schema_id": decision.schema_id,
        "schema_valid": answer.schema_valid,
        "finish_reason": answer.finish_reason,
    }
