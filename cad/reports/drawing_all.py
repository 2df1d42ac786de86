"""Drawing all of a report's figures, on two cores where there are two."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cad.reports.aggregate import Study
from cad.reports.style import Drawing, drawing_style

Draw = Callable[[Study], Drawing | None]

# How much longer than the figures of this process those of the other may take, in seconds.
_PATIENCE = 20.0


def draw_all(study: Study, draws: Sequence[Draw]) -> list[Drawing | None]:
    """What each of ``draws`` makes of the study, in their order.

    A forked process, which has the study without its being copied, takes every next figure as this
    one does.  Whatever it does not deliver, for whatever reason, is drawn here.
    """
    found: dict[int, Drawing | None] = {}
    started = time.monotonic()
    with drawing_style(), _helper(study, draws) as (turn, deliver):
        for number in _turns(turn, len(draws)):
            found[number] = draws[number](study)
        found |= deliver(time.monotonic() - started + _PATIENCE)
        for number, draw in enumerate(draws):
            if number not in found:
                found[number] = draw(study)
    return [found[number] for number in range(len(draws))]


def _turns(turn: Any, n: int) -> Iterator[int]:
    """The next number that nobody has taken yet, until ``n`` are."""
    while True:
        with turn.get_lock():
            number = turn.value
            turn.value += 1
        if number >= n:
            return
        yield number


@contextlib.contextmanager
def _helper(
    study: Study, draws: Sequence[Draw]
) -> Iterator[tuple[Any, Callable[[float], dict[int, Drawing | None]]]]:
    """The shared counter, and a function that waits some seconds for the helper's drawings."""
    # Elsewhere a forked process may not use the system's libraries.
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2:
        yield multiprocessing.Value("i", 0), lambda _seconds: {}
        return
    context = multiprocessing.get_context("fork")
    turn = context.Value("i", 0)
    receiver, sender = context.Pipe(duplex=False)

    def work() -> None:
        receiver.close()  # so that sending fails once nobody is there to receive
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            sender.send({number: draws[number](study) for number in _turns(turn, len(draws))})
        except BaseException:  # it is drawn, and told of, by the process that waits
            os._exit(1)

    def deliver(seconds: float) -> dict[int, Drawing | None]:
        with contextlib.suppress(EOFError, OSError):
            if receiver.poll(seconds):
                made: dict[int, Drawing | None] = receiver.recv()
                return made
        return {}

    helper = context.Process(target=work, daemon=True)
    helper.start()
    sender.close()
    try:
        yield turn, deliver
    finally:
        helper.kill()
        helper.join()
        receiver.close()
