"""The `preprocess` model: requests in, the engine's tensors or an error out; every row is in the ledger first."""

from __future__ import annotations

import gc
import time
from typing import Any

import triton_python_backend_utils as pb_utils

from llm_policy.errors import PolicyError
from llm_policy.steps.ledger_writer import LedgerWriter, boot_id
from llm_policy.text.tokenizer import Tokenizer
from llm_policy.triton.adapter import build_response, open_release, state_directory
from llm_policy.triton.admission import Admission, PendingRequest
from llm_policy.triton.error_responses import as_policy_error, error_response
from llm_policy.triton.tensor_cache import TensorCache


class PreprocessModel:
    """The `preprocess` model.

    Requests whose guides are compiled are answered from `execute`. The others are answered from the guide compiler's
    thread, so that compiling a new guide delays no other request.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the release. Any exception keeps the model from loading, with its text as the reason."""
        release, state_dir = open_release(), state_directory()
        self._ledger = LedgerWriter(state_dir, release.manifest, boot_id())
        tokenizer = Tokenizer.load(release.tokenizer_dir)
        self._admission = Admission(release, state_dir, self._ledger, tokenizer, streams=False)
        self._tensors = TensorCache()
        self._ledger.open()
        gc.freeze()  # everything loaded so far stays, so garbage collections can skip it

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request; None for a request that waits for the guide compiler."""
        began_ns = time.perf_counter_ns()
        batch = self._admission.admit(requests)
        responses = [self._respond(pending) for pending in batch]
        self._admission.log.flush()
        self._admission.observe_overhead("preprocess", batch, began_ns)
        return responses

    def finalize(self) -> None:
        """Stop the guide compiler and its sandbox."""
        self._admission.close()

    def _respond(self, pending: PendingRequest) -> Any:
        """The response; None if the guide compiler answers the request later."""
        if pending.error is not None:
            self._admission.add_to_log(pending)
            return error_response(pending.error)
        try:
            if not pending.missing_guides:
                return self._pack(pending)
            sender = pending.request.get_response_sender()
            self._admission.compile_guides(pending, lambda error: self._respond_later(sender, pending, error))
        except BaseException as error:
            return self._reject(pending, error)
        return None

    def _respond_later(self, sender: Any, pending: PendingRequest, error: PolicyError | None) -> None:
        """Runs on the guide compiler's thread, once all guides of the request are compiled or one is rejected."""
        try:
            if error is not None:
                raise error
            response = self._pack(pending)
        except BaseException as exception:
            response = self._reject(pending, exception)
            self._admission.log.flush()
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _reject(self, pending: PendingRequest, error: BaseException) -> Any:
        return error_response(self._admission.reject(pending, as_policy_error(error)))

    def _pack(self, pending: PendingRequest) -> Any:
        return build_response(self._tensors, self._admission.pack(pending))
