"""Several ranks on this machine: a process each, watched by the one that was asked to run the stage."""

from __future__ import annotations

import logging
import multiprocessing
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess
from pathlib import Path

from cad.config.schema import LoopConfig
from cad.errors import CadError
from cad.experiments.directory import StageDirectory
from cad.experiments.plan import Cell, Stage
from cad.experiments.stages import Resources
from cad.interrupt import InterruptedRun, StopFlag
from cad.storage import read_json
from cad.training.engines import require_ranks
from cad.training.rendezvous import LOST, RankAssignment

_POLL_SECONDS = 0.2
# For the others to notice by themselves that a rank is gone, then to save and end, before they are killed.
_PATIENCE_SECONDS = 45.0
# A process that a signal ended before it was ready to save.
_UNREADY = {-signal.SIGTERM, -signal.SIGINT, -signal.SIGUSR2}


def engine_settings(stage: Stage) -> LoopConfig | None:
    """The section that says how a stage trains; None for stages that do not."""
    sections = {"train": stage.config.train, "pretrain": stage.config.pretrain}
    return sections.get(stage.kind)


def ranks_of(stage: Stage, ranks: int) -> int:
    """How many of ``ranks`` processes a stage uses."""
    settings = engine_settings(stage)
    return 1 if settings is None or settings.engine == "plain" else ranks


def require_ranks_of_cells(cells: Sequence[Cell], ranks: int) -> None:
    """Refuse a number of ranks that some training cannot be shared out over, or that none would use."""
    if ranks == 1:
        return
    stages = [stage for cell in cells for stage in cell.stages]
    for stage in stages:
        settings = engine_settings(stage)
        if settings is not None and settings.engine != "plain":
            require_ranks(settings, stage.kind, ranks)
    if all(ranks_of(stage, ranks) == 1 for stage in stages):
        require_ranks(cells[0].config.train, "train", ranks)


def run_in_ranks(root: Path, stage: Stage, resources: Resources, stop: StopFlag) -> None:
    """Run a stage in ``resources.ranks`` processes.

    Raises :class:`CadError` with the first failure, and :class:`~cad.interrupt.InterruptedRun` when
    they stopped; a rank that dies takes the others with it.
    """
    context = multiprocessing.get_context("spawn")
    rendezvous_id, size = secrets.token_hex(8), resources.ranks
    assignments = [RankAssignment(rank, size, rank, "127.0.0.1", rendezvous_id) for rank in range(size)]
    processes = [
        context.Process(target=_rank, args=(root, stage, resources, assignment, os.getpid()))
        for assignment in assignments
    ]
    with _ignoring_interrupts():
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
        stop.raise_if_set(f"stage {stage.name}")
    raise CadError(_failure(StageDirectory(root, stage), codes))


def _failure(directory: StageDirectory, codes: Sequence[int | None]) -> str:
    from cad.experiments.job import FAILED

    marker = directory.file(FAILED)
    if marker.exists():
        return str(read_json(marker).get("message", ""))
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return (
                f"rank {rank} of {len(codes)} was ended by {name} (out of memory?); run again to go on "
                f"from the last checkpoint"
            )
    return f"ranks ended with codes {list(codes)}; run again to go on from the last checkpoint"


def _wait(processes: Sequence[SpawnProcess], stop: StopFlag) -> None:
    """Until all have ended; passes a stop on, and ends what outlives a failed rank for long."""
    told, failed = False, None
    while any(process.is_alive() for process in processes):
        if stop() and not told:
            told = True
            for process in processes:
                process.terminate()
        if failed is None and any(p.exitcode not in (None, 0, InterruptedRun.exit_code) for p in processes):
            failed = time.monotonic()
        if failed is not None and time.monotonic() - failed > _PATIENCE_SECONDS:
            return
        time.sleep(_POLL_SECONDS)


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Ctrl-C reaches all processes; those that are starting are not to end with a traceback."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not in the main thread, where handlers cannot be changed
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _rank(root: Path, stage: Stage, resources: Resources, assignment: RankAssignment, starter: int) -> None:
    """What each process runs."""
    from cad.experiments.job import stage_job
    from cad.training.ranks import PeerLostError

    try:
        stage_job(root, stage, resources, starter, assignment)
    except InterruptedRun:
        sys.exit(InterruptedRun.exit_code)
    except PeerLostError as error:
        logging.getLogger(__name__).error("%s", error)
        sys.exit(CadError.exit_code if error.explained else LOST)
    except CadError as error:
        logging.getLogger(__name__).error("%s", error)
        sys.exit(CadError.exit_code)
