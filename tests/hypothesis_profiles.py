"""Hypothesis profiles: `fixed` repeats the same examples; `explore` takes new ones, six times as many.

`pytest --hypothesis-profile explore` prints its seed. Pass that as `--hypothesis-seed` (or in HYPOTHESIS_SEED) to
repeat a run. Neither profile has a deadline for an example: test machines are noisy.
"""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import settings

FIXED, EXPLORE = "fixed", "explore"
_IN_FIXED, _IN_EXPLORE = 50, 300  # the default numbers of examples

settings.register_profile(FIXED, derandomize=True, deadline=None, max_examples=_IN_FIXED)
settings.register_profile(EXPLORE, derandomize=False, deadline=None, max_examples=_IN_EXPLORE, print_blob=True)
settings.load_profile(FIXED)


def num_examples(in_fixed_profile: int, in_explore_profile: int | None = None) -> int:
    """The `max_examples` of a test that does not use the default number.

    `explore` takes six times as many, unless `in_explore_profile` is given.
    """
    explores = settings().max_examples > _IN_FIXED
    if explores and in_explore_profile is not None:
        return in_explore_profile
    return in_fixed_profile * settings().max_examples // _IN_FIXED


@pytest.hookimpl(tryfirst=True)  # before Hypothesis reads the option, and before xdist passes it to the workers
def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed of `explore`, so that all workers use it and it can be printed."""
    if _explores(config) and config.option.hypothesis_seed is None:
        chosen = random.SystemRandom().randrange(2**32)
        config.option.hypothesis_seed = os.environ.get("HYPOTHESIS_SEED") or str(chosen)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Print the seed, although `-q` hides pytest's own header."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if _explores(session.config) and terminal is not None:
        terminal.write_line(_description(session.config))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """Print the seed again below the failures."""
    if _explores(config) and exitstatus != 0:
        terminalreporter.write_line(_description(config))


def _explores(config: pytest.Config) -> bool:
    return bool(config.getoption("--hypothesis-profile") == EXPLORE)


def _description(config: pytest.Config) -> str:
    seed = config.option.hypothesis_seed
    return f"Hypothesis explores. To repeat this run: --hypothesis-profile {EXPLORE} --hypothesis-seed {seed}"
