"""Timing of deliveries. Tests replace the clock and the random numbers."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from llmstack.events.retry_schedule import RetrySchedule
from llmstack.events.webhook_sender import Timeouts


@dataclass(frozen=True)
class DeliverySettings:
    """How the events of one installation are delivered.

    A worker looks for new events every `poll_s` seconds. `now_ns` returns Unix time, `uniform` draws the jitter.
    """

    schedule: RetrySchedule = field(default_factory=RetrySchedule)
    timeouts: Timeouts = field(default_factory=Timeouts)
    poll_s: float = 1.0
    retention_days: float = 30.0
    now_ns: Callable[[], int] = time.time_ns
    uniform: Callable[[float, float], float] = random.SystemRandom().uniform
