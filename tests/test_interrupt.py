"""Signals request a stop; nothing else happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from cad.errors import CadError
from cad.interrupt import (
    STOP_SIGNALS,
    InterruptedRun,
    StopFlag,
    stop_on_signals,
)


def test_nothing_is_asked_for_at_first():
    with stop_on_signals() as stop:
        assert not stop()
        stop.raise_if_set("training")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_sets_the_flag_and_a_second_one_is_harmless(number):
    with stop_on_signals() as stop:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert stop()
        with pytest.raises(InterruptedRun, match=rf"^training stopped by {number.name}; run .* again"):
            stop.raise_if_set("training")
        os.kill(os.getpid(), number)
        assert stop()


def test_an_interrupted_run_is_an_error_with_the_shells_exit_code():
    assert issubclass(InterruptedRun, CadError)
    assert InterruptedRun("x").exit_code == 130


def test_handlers_are_put_back_also_after_an_error():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with pytest.raises(ZeroDivisionError), stop_on_signals():
        assert [signal.getsignal(number) for number in STOP_SIGNALS] != before
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_blocks_nest():
    with stop_on_signals() as outer:
        with stop_on_signals() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
            assert inner()
        assert not outer()
        os.kill(os.getpid(), signal.SIGTERM)
        assert outer()


def test_a_stop_without_a_signal():
    stop = StopFlag()
    stop.request()
    with pytest.raises(InterruptedRun):
        stop.raise_if_set("evaluation")


def test_another_thread_gets_a_flag_and_leaves_the_handlers_alone():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    seen = []

    def work() -> None:
        with stop_on_signals() as stop:
            seen.append((stop(), [signal.getsignal(number) for number in STOP_SIGNALS]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


# In a process of its own: of several threads, another one might take the signal.
BEFORE_IT_LISTENS = """
import os, signal
from cad.interrupt import hear_stop_signals, stop_on_signals, stop_signals_blocked

with stop_on_signals() as stop:
    with stop_signals_blocked():
        os.kill(os.getpid(), signal.SIGUSR2)
        child = os.fork()
        if child == 0:  # as one that was just started: nothing ends it, and nothing is missed
            os.kill(os.getpid(), signal.SIGTERM)
            early = stop()
            hear_stop_signals()
            os._exit(0 if stop() and not early else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert not stop()
    assert stop.signal_number == signal.SIGUSR2
"""


def test_a_signal_that_comes_before_a_process_listens_is_not_lost():
    done = subprocess.run(
        [sys.executable, "-c", BEFORE_IT_LISTENS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
