"""Token and cost budgets, checked before the engine sees a request."""

from __future__ import annotations

from llm_policy.errors import Code, InvalidRequest, invalid_input
from llm_policy.ledger.row_record import RowRecord
from llm_policy.pricing import usd
from llm_policy.release.manifest import Manifest, Task


class Budget:
    """The budgets of one manifest."""

    def __init__(self, manifest: Manifest) -> None:
        self.max_prompt_tokens = manifest.thresholds.max_prompt_tokens
        self.max_tokens = manifest.thresholds.max_tokens
        self.max_cost_nano_usd = manifest.thresholds.max_cost_nano_usd
        self.price = manifest.prices.per_token
        self._rejects_cost = manifest.on_cost_breach == "reject"

    def check_prompt(self, num_prompt_tokens: int, *, at_least: bool = False) -> None:
        """Check a prompt against `max_prompt_tokens`; with `at_least` the count is only a lower bound.

        Raises:
            InvalidRequest: `token_budget_overrun`.
        """
        if num_prompt_tokens > self.max_prompt_tokens:
            count = f"at least {num_prompt_tokens}" if at_least else f"{num_prompt_tokens}"
            raise InvalidRequest(
                Code.TOKEN_BUDGET_OVERRUN,
                f"prompt has {count} tokens, limit {self.max_prompt_tokens} (max_prompt_tokens)",
            )

    def completion_limit(self, num_prompt_tokens: int, requested: int | None, task: Task | None) -> int:
        """The completion limit: the request's `max_tokens`, else the task's, else what the prompt leaves.

        Raises:
            InvalidRequest: `invalid_input` below 1, `token_budget_overrun` if the sum exceeds `max_tokens`.
        """
        left = self.max_tokens - num_prompt_tokens
        if requested is None:
            default = task.max_tokens if task else None
            return left if default is None else min(default, left)
        if requested < 1:
            raise invalid_input(f"max_tokens is {requested}, allowed 1 to {left}")
        if requested > left:
            raise InvalidRequest(
                Code.TOKEN_BUDGET_OVERRUN,
                f"prompt has {num_prompt_tokens} tokens and max_tokens is {requested}, together "
                f"{num_prompt_tokens + requested}, limit {self.max_tokens} (max_tokens)",
            )
        return requested

    def check_cost(self, record: RowRecord) -> None:
        """Check the worst-case cost of a row.

        Raises:
            InvalidRequest: `cost_budget_overrun` where the manifest's `on_cost_breach` is `reject`.
        """
        if self._rejects_cost and record.projected_nano_usd > self.max_cost_nano_usd:
            raise InvalidRequest(
                Code.COST_BUDGET_OVERRUN,
                f"{record.num_prompt_tokens} prompt and up to {record.max_completion_tokens} completion tokens "
                f"may cost {usd(record.projected_nano_usd):.9f} USD, "
                f"limit {usd(self.max_cost_nano_usd):.9f} USD (max_cost_usd)",
            )
