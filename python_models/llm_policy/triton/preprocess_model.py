"""The `preprocess` model: requests in, the engine's tensors or an error out; every row is in the ledger first."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Any

from llm_policy.errors import PolicyError
from llm_policy.steps.ledger_writer import LedgerWriter, boot_id
from llm_policy.text.tokenizer import Tokenizer
from llm_policy.triton.adapter import build_response, open_release, state_directory
from llm_policy.triton.admission import Admission, PendingRequest
from llm_policy.triton.arrival import Arrival
from llm_policy.triton.error_responses import as_policy_error, cancelled_response, error_response
from llm_policy.triton.fair_worker import FairWorker, send
from llm_policy.triton.tensor_cache import TensorCache


class PreprocessModel:
    """The `preprocess` model.

    Tenants take turns (`FairWorker`). A request whose guide is not compiled yet waits for the guide compiler, and is
    answered from the worker's thread, so that compiling a new guide delays no other request.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the release. Any exception keeps the model from loading, with its text as the reason."""
        release, state_dir = open_release(), state_directory()
        self._ledger = LedgerWriter(state_dir, release.manifest, boot_id())
        tokenizer = Tokenizer.load(release.tokenizer_dir)
        self._admission = Admission(release, state_dir, self._ledger, tokenizer, streams=False)
        self._tensors = TensorCache()
        self._ledger.open()
        self._worker = FairWorker(self._work, "preprocess", Arrival.displaced)
        gc.freeze()  # everything loaded so far stays, so garbage collections can skip it

    def execute(self, requests: list[Any]) -> Sequence[Any]:
        """One response per request; None for a request that is answered later."""
        arrivals = [self._admission.read(request) for request in requests]
        return self._worker.handle([self._admission.tenant_of(arrival) for arrival in arrivals], arrivals)

    def finalize(self) -> None:
        """Answer what waits; stop the guide compiler and its sandbox."""
        self._worker.close()
        self._admission.close()

    def _work(self, arrivals: Sequence[Arrival]) -> list[Any]:
        began_ns = time.perf_counter_ns()
        are_abandoned = [arrival.is_abandoned() for arrival in arrivals]
        batch = self._admission.admit(
            [arrival for arrival, is_abandoned in zip(arrivals, are_abandoned, strict=True) if not is_abandoned]
        )
        responses = map(self._respond, batch)
        answers = [cancelled_response() if is_abandoned else next(responses) for is_abandoned in are_abandoned]
        self._admission.log.flush()
        self._admission.observe_overhead("preprocess", batch, began_ns)
        return answers

    def _respond(self, pending: PendingRequest) -> Any:
        """The response; None if the request waits for the guide compiler."""
        if pending.error is not None:
            self._admission.add_to_log(pending)
            return error_response(pending.error)
        try:
            if not pending.missing_guides:
                return self._pack(pending)
            self._admission.compile_guides(
                pending, lambda error: self._worker.answer_later(lambda: self._respond_later(pending, error))
            )
            self._worker.defer()
        except BaseException as error:
            return self._reject(pending, error)
        return None

    def _respond_later(self, pending: PendingRequest, error: PolicyError | None) -> None:
        """Answer a request whose guides are compiled, or one of whose guides is rejected."""
        try:
            if error is not None:
                raise error
            response = self._pack(pending)
        except BaseException as exception:
            response = self._reject(pending, exception)
            self._admission.log.flush()
        send(pending.arrival.sender, response)

    def _reject(self, pending: PendingRequest, error: BaseException) -> Any:
        return error_response(self._admission.reject(pending, as_policy_error(error)))

    def _pack(self, pending: PendingRequest) -> Any:
        return build_response(self._tensors, self._admission.pack(pending))
