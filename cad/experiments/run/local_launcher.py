"""Launch several ranks on this machine, a process each, and watch over them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess

from cad.errors import CadError
from cad.interrupt import InterruptedRun, StopFlag, interrupts_ignored
from cad.training.ranks import PeerLostError, RankAssignment

Work = Callable[[RankAssignment, int], None]
"""What each rank runs, given the process that launched it; picklable.  It may raise what a stage raises."""

# What every stage and rank imports, once for all processes that are forked from one that has.  Not
# DeepSpeed: it looks for devices, which a forked process could not use then.  torch's compiler looks for
# none; whoever makes an optimiser imports it, in 2 s of CPU time, whether anything is compiled or not.
PRELOADED = ["cad.experiments.run.job", "cad.histories.collect", "h5py", "safetensors.torch", "torch._dynamo"]

_POLL_SECONDS = 0.2
# For the other ranks to notice that one is gone, to save and to end, before they are killed.
_PATIENCE_SECONDS = 45.0
# A process that a signal ended before it was ready to save.
_UNREADY = {-signal.SIGTERM, -signal.SIGINT, -signal.SIGUSR2}


def run_in_ranks(
    work: Work, size: int, stop: StopFlag, what: str, recorded_failure: Callable[[], str | None]
) -> None:
    """Run ``work`` in ``size`` processes that share one training; ``what`` names it in messages.

    ``recorded_failure`` is the reason that a failed rank recorded, if any.  Raises :class:`CadError` with
    that reason, or with what is known of the failed rank, and :class:`~cad.interrupt.InterruptedRun`
    when the ranks were stopped.  When one rank dies, the others are ended.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    rendezvous_id = secrets.token_hex(8)
    assignments = [RankAssignment(rank, size, rank, "127.0.0.1", rendezvous_id) for rank in range(size)]
    processes = [
        context.Process(target=_rank, args=(work, assignment, os.getpid())) for assignment in assignments
    ]
    with interrupts_ignored():
        for process in processes:
            process.start()
    try:
        _wait(processes, stop)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
    codes = [process.exitcode for process in processes]
    if not any(codes):
        return
    stopped = {0, InterruptedRun.exit_code} | (_UNREADY if stop() else set())
    if set(codes) <= stopped:
        if not stop():
            stop.request()
        stop.raise_if_set(what)
    reason = recorded_failure()
    raise CadError(_failure(codes) if reason is None else reason)


def _failure(codes: Sequence[int | None]) -> str:
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return (
                f"rank {rank} of {len(codes)} was ended by {name} (out of memory?); run again to resume "
                f"from the last checkpoint"
            )
    return f"ranks ended with codes {list(codes)}; run again to resume from the last checkpoint"


def _wait(processes: Sequence[ForkServerProcess], stop: StopFlag) -> None:
    """Wait until all have ended; pass a stop on, and return early when some outlive a failed rank."""
    passed_on, failed = False, None
    while any(process.is_alive() for process in processes):
        if stop() and not passed_on:
            passed_on = True
            for process in processes:
                process.terminate()
        if failed is None and any(p.exitcode not in (None, 0, InterruptedRun.exit_code) for p in processes):
            failed = time.monotonic()
        if failed is not None and time.monotonic() - failed > _PATIENCE_SECONDS:
            return
        time.sleep(_POLL_SECONDS)


def _rank(work: Work, assignment: RankAssignment, launcher: int) -> None:
    """What each process runs: the work, its outcome as an exit code."""
    try:
        work(assignment, launcher)
    except InterruptedRun:
        sys.exit(InterruptedRun.exit_code)
    except PeerLostError as error:
        logging.getLogger(__name__).error("%s", error)
        sys.exit(error.exit_code)
    except CadError as error:
        logging.getLogger(__name__).error("%s", error)
        sys.exit(CadError.exit_code)
