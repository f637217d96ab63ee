"""Signals as a question: the first asks, the second interrupts."""

import os
import signal

import pytest

from llmstack.supervision.stop_signals import StopRequested, StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_to_stop(number):
    with StopSignals() as stop:
        stop.check()
        assert not stop.is_asked
        os.kill(os.getpid(), number)
        assert stop.wait(10)
        assert stop.is_asked
        with pytest.raises(StopRequested):
            stop.check()


def test_the_second_signal_interrupts():
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(10)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            stop.wait(10)


def test_afterwards_signals_mean_what_they_meant():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
