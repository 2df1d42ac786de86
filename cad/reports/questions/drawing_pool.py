"""Drawing the figures of a report, in two processes where there are two cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait

from cad.reports.data import Study
from cad.reports.plotting import Drawing, drawing_prints, drawing_style
from cad.surroundings import usable_cores

Draw = Callable[[Study], Drawing | None]

_work: tuple[Study, Sequence[Draw], bool]  # of a worker


def draw_all(study: Study, draws: Sequence[Draw], *, prints: bool = True) -> list[Drawing | None]:
    """What each of ``draws`` makes of the study, in their order; with ``prints``, also for paper."""
    # Outside Linux a forked process may not use the system's libraries.
    if sys.platform == "linux" and usable_cores() > 1:
        fork = multiprocessing.get_context("fork")  # hands the study over without copying or pickling it
        try:
            work = (study, draws, prints)
            with ProcessPoolExecutor(2, fork, initializer=_start_worker, initargs=work) as pool:
                return list(pool.map(_draw, range(len(draws))))
        except BrokenProcessPool:
            pass  # for example, killed for lack of memory: one process needs less
    with drawing_style(), drawing_prints(prints):
        return [draw(study) for draw in draws]


def _start_worker(study: Study, draws: Sequence[Draw], prints: bool) -> None:
    global _work  # noqa: PLW0603 - a pool's initializer has no other place to leave it
    _work = (study, draws, prints)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent is killed; otherwise it would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _draw(number: int) -> Drawing | None:
    study, draws, prints = _work
    with drawing_style(), drawing_prints(prints):
        return draws[number](study)
