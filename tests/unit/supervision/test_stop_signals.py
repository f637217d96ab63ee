"""The first signal requests a stop, the second interrupts."""

import os
import signal

import pytest

from llmstack.supervision.stop_signals import StopRequested, StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_requests_a_stop(number):
    with StopSignals() as stop:
        stop.check()
        assert not stop.is_requested
        os.kill(os.getpid(), number)
        assert stop.wait(10)
        assert stop.is_requested
        with pytest.raises(StopRequested):
            stop.check()


def test_the_second_signal_interrupts():
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(10)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            stop.wait(10)


def test_the_former_signal_handlers_are_restored():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
