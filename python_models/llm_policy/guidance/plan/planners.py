"""One planner for each guide type."""

from __future__ import annotations

from collections.abc import Callable

from llm_policy.guidance.counting import Counting
from llm_policy.guidance.plan.ebnf_guide import plan_ebnf
from llm_policy.guidance.plan.guide_plan import GuidePlan
from llm_policy.guidance.plan.json_schema_guide import plan_json, plan_json_schema
from llm_policy.guidance.plan.text_guides import plan_choice, plan_regex
from llm_policy.release.guide_limits import GuideLimits

_PLANNERS: dict[str, Callable[[str, GuideLimits, Counting], GuidePlan]] = {
    "json": lambda text, limits, counting: plan_json(limits),
    "json_schema": plan_json_schema,
    "regex": plan_regex,
    "ebnf_grammar": plan_ebnf,
    "choice": lambda text, limits, counting: plan_choice(text, limits),
}


def plan_guide(kind: str, text: str, limits: GuideLimits, counting: Counting) -> GuidePlan:
    """The plan of a client's guide of one of the types in `_PLANNERS`.

    Raises:
        InvalidRequest: `schema_invalid` or `schema_too_complex`.
    """
    return _PLANNERS[kind](text, limits, counting)
