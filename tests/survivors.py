"""Tests that drop some of their cases: they fail when too few are left, for then they would verify nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any


class _Dropped(Exception):
    """Raised to end an example that does not count."""


def keep_if(condition: object) -> None:
    """End an example of a property test, without a failure, unless `condition` holds.

    Unlike `hypothesis.assume`, it draws no other example instead. The test must be decorated with `keeps_at_least`.
    """
    if not condition:
        raise _Dropped


def check_survivors(num_kept: int, num_cases: int, min_share: float) -> None:
    """Raise AssertionError when less than `min_share` of the cases were kept."""
    assert num_cases, "there was no case"
    assert num_kept >= min_share * num_cases, (
        f"only {num_kept} of {num_cases} cases ({num_kept / num_cases:.1%}) were not dropped; "
        f"at least {min_share:.1%} must remain. Draw cases that are dropped less often."
    )


def keeps_at_least(min_share: float) -> Callable[[Any], Any]:
    """The outermost decorator of a property test: `assume` and `keep_if` must leave this share of the examples."""

    def decorate(test: Any) -> Any:
        body = test.hypothesis.inner_test
        num_examples = num_kept = 0

        @wraps(body)
        def counted(*arguments: Any, **named: Any) -> None:
            nonlocal num_examples, num_kept
            num_examples += 1
            try:
                body(*arguments, **named)
            except _Dropped:
                return
            num_kept += 1

        @wraps(test)
        def checked(*arguments: Any, **named: Any) -> None:
            nonlocal num_examples, num_kept
            num_examples = num_kept = 0
            test(*arguments, **named)
            check_survivors(num_kept, num_examples, min_share)

        test.hypothesis.inner_test = counted
        return checked

    return decorate
