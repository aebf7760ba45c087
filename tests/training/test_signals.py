"""Signals are noted once, and act as they always did afterwards."""

from __future__ import annotations

import signal

import pytest

from embedding_expansion.training.loop import StopSignal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_acts(number: signal.Signals) -> None:
    class Acted(Exception):
        pass

    def act(*_: object) -> None:
        raise Acted

    before = signal.signal(number, act)
    try:
        with StopSignal() as stop:
            assert stop.number == 0
            signal.raise_signal(number)
            assert stop.number == number
            with pytest.raises(Acted):
                signal.raise_signal(number)
        assert signal.getsignal(number) is act
    finally:
        signal.signal(number, before)
