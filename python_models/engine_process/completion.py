"""One request's completion as its client gets it, from the steps of the engine."""

from __future__ import annotations

from engine_process.engine import Step
from engine_process.messages import Generate, Reason


class Completion:
    """Counts the tokens of one request, drops `end_id`, and finds stop sequences for engines that don't.

    As in TensorRT-LLM, a stop sequence is part of the completion and `end_id` is not; the log-probability of `end_id`
    counts in `cum_log_prob`.
    """

    def __init__(self, request: Generate, *, finds_stops: bool) -> None:
        self._end_id = request.end_id
        self._stops = [stop for stop in request.stop_sequences if stop] if finds_stops else []
        self._longest = max(map(len, self._stops), default=0)
        self._tail: list[int] = []
        self.num_tokens = 0
        self.cum_log_prob = 0.0
        self.finish_reason: Reason | None = None

    def add(self, step: Step) -> tuple[list[int], list[float]]:
        """The step's tokens that the client gets, with their log-probabilities; sets `finish_reason` at the end."""
        all_log_probs = step.log_probs or [0.0] * len(step.token_ids)
        if len(all_log_probs) != len(step.token_ids):
            raise ValueError(f"{len(step.token_ids)} tokens have {len(all_log_probs)} log-probabilities")
        if not self._stops and self._end_id not in step.token_ids:  # nothing can end here: no loop over the tokens
            self.cum_log_prob += sum(all_log_probs)
            return self._count(step, step.token_ids, all_log_probs)
        token_ids: list[int] = []
        log_probs: list[float] = []
        for token_id, log_prob in zip(step.token_ids, all_log_probs, strict=True):
            self.cum_log_prob += log_prob
            if token_id == self._end_id:
                self.finish_reason = "stop"
                break
            token_ids.append(token_id)
            log_probs.append(log_prob)
            if self._ends_at(token_id):
                self.finish_reason = "stop"
                break
        return self._count(step, token_ids, log_probs)

    def _count(self, step: Step, token_ids: list[int], log_probs: list[float]) -> tuple[list[int], list[float]]:
        self.num_tokens += len(token_ids)
        self.finish_reason = self.finish_reason or step.finish_reason
        return token_ids, log_probs

    def _ends_at(self, token_id: int) -> bool:
        if not self._stops:
            return False
        self._tail = [*self._tail, token_id][-self._longest :]
        return any(self._tail[-len(stop) :] == stop for stop in self._stops)
