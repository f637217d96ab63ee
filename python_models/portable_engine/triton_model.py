"""The portable engine as a Triton model.

Triton's thread calls `execute`, which reads the inputs, takes a response sender per request and queues the request. The
decode loop's thread polls for cancellation and sends the responses; using the senders on more than one thread crashes
the server.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb_utils

from portable_engine.batcher import InFlightBatcher
from portable_engine.engine_loop import DEFAULT_MAX_ANSWER_NS, EngineLoop
from portable_engine.error_response import error_response
from portable_engine.failure import Failure
from portable_engine.grammar import GrammarEngine
from portable_engine.loader import load_model
from portable_engine.mask_law import DEFAULT_LIMIT_MS
from portable_engine.request_parameters import tenant_of
from portable_engine.sequence import Sequence
from portable_engine.tensors import RequestError, read_requests, write_response
from portable_engine.usage_journal import FILE_NAME, UsageJournal, ledger_ids

RELEASE_DIR = "LLMSTACK_RELEASE_DIR"
STATE_DIR = "LLMSTACK_STATE_DIR"
BOOT_ID = "LLMSTACK_BOOT_ID"
DEFAULT_RELEASE_DIR = "artifacts/current"


class PortableEngineModel:
    """`tensorrt_llm` on PyTorch: serves the Hugging Face model in the release's `engine` directory."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model and start the decode loop."""
        release = Path(os.environ.get(RELEASE_DIR, DEFAULT_RELEASE_DIR))
        config = json.loads(args["model_config"])
        model = load_model(release / "engine")
        self._max_tokens = int(model.config.max_position_embeddings)
        max_mask_ms = _limit(release, "guidance", "max_mask_ms", DEFAULT_LIMIT_MS)
        max_answer_s = _limit(release, "engine", "max_answer_s", DEFAULT_MAX_ANSWER_NS / 1e9)
        self._grammars = GrammarEngine(release / "tokenizer_info.json", int(model.config.vocab_size), max_mask_ms)
        torch.set_grad_enabled(False)
        batcher = InFlightBatcher(model, max(1, int(config["max_batch_size"])), self._grammars.mask_logits)
        log = pb_utils.Logger.log_error
        self._loop = EngineLoop(batcher, self._grammars, log, int(max_answer_s * 1e9), _journal(log))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Queue each request. Returns None where the loop responds later, and an error response for an invalid one."""
        return [self._enqueue(request) for request in requests]

    def finalize(self) -> None:
        """Stop the loop and the compile thread."""
        self._loop.close()
        self._grammars.close()

    def _enqueue(self, request: Any) -> Any:
        arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        try:
            rows = read_requests(arrays, self._max_tokens, self._grammars.vocab_size)
        except RequestError as error:
            return error_response(Failure("invalid_input", str(error)))
        except Exception as error:
            pb_utils.Logger.log_error(f"can't read a request: {type(error).__name__}")
            return error_response(Failure("invalid_input", "the request's tensors can't be read"))
        self._loop.submit(
            rows,
            _TritonResponder(request, arrays),
            tenant_of(request),
            timeout_ns=1_000 * int(request.timeout()),
            ledger_ids=ledger_ids(arrays, len(rows)),
        )
        return None


class _TritonResponder:
    """Sends one request's response through Triton; created on Triton's thread, then used on the loop's alone."""

    def __init__(self, request: Any, arrays: dict[str, Any]) -> None:
        self._sender = request.get_response_sender()
        self._requested = set(request.requested_output_names())
        self._pad_id = int(arrays["pad_id"].reshape(-1)[0]) if "pad_id" in arrays else 0
        excludes_prompt = arrays.get("exclude_input_in_output")
        self._includes_prompt = excludes_prompt is None or not bool(excludes_prompt.reshape(-1)[0])
        log_probs = arrays.get("return_log_probs")
        self._returns_log_probs = log_probs is not None and bool(log_probs.any())

    def is_cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())

    def send_result(self, sequences: list[Sequence]) -> None:
        arrays = write_response(
            sequences,
            pad_id=self._pad_id,
            includes_prompt=self._includes_prompt,
            returns_log_probs=self._returns_log_probs,
        )
        tensors = [pb_utils.Tensor(name, array) for name, array in arrays.items() if name in self._requested]
        self._send(pb_utils.InferenceResponse(tensors))

    def send_error(self, failure: Failure) -> None:
        self._send(error_response(failure))

    def send_cancelled(self) -> None:
        error = pb_utils.TritonError("the client cancelled the request", pb_utils.TritonError.CANCELLED)
        self._send(pb_utils.InferenceResponse(error=error))

    def _send(self, response: Any) -> None:
        self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _limit(release: Path, section: str, key: str, default: float) -> float:
    """A limit of the release's manifest, or its default."""
    return float(json.loads((release / "manifest.json").read_bytes()).get(section, {}).get(key, default))


def _journal(log: Callable[[str], None]) -> UsageJournal | None:
    """The journal in the ledger's directory; None for an engine without one."""
    state_dir, boot_id = os.environ.get(STATE_DIR), os.environ.get(BOOT_ID)
    return UsageJournal(Path(state_dir) / FILE_NAME, boot_id, log) if state_dir and boot_id else None
