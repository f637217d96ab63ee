"""What decides when things happen; tests have their own clock."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from llmstack.events.retry_schedule import RetrySchedule
from llmstack.events.webhook_sender import TimeOuts

RETENTION_DAYS = 30


@dataclass(frozen=True)
class DeliverySettings:
    """How the events of one installation are delivered.

    `poll_s` is how often a worker looks for new events; `now_ns` is Unix time, `uniform` draws the jitter.
    """

    schedule: RetrySchedule = field(default_factory=RetrySchedule)
    time_outs: TimeOuts = field(default_factory=TimeOuts)
    poll_s: float = 1.0
    retention_days: float = RETENTION_DAYS
    now_ns: Callable[[], int] = time.time_ns
    uniform: Callable[[float, float], float] = random.SystemRandom().uniform
