"""The work of each kind of stage.

:func:`run_stage` is the one entry for every way of running: inline, in a local process, in a job.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cad.errors import CadError
from cad.evaluation.actions_file import save_actions
from cad.evaluation.results import save_results
from cad.evaluation.saved_rollout import RolloutFile
from cad.experiments.plan.directory import StageDirectory, StageFile
from cad.experiments.plan.stage import Stage
from cad.experiments.reporting.environment_info import environment_info
from cad.experiments.run.attempt import StageAttempt
from cad.experiments.run.resources import Resources, pick_device
from cad.experiments.run.trained_model import evaluate, load_trained
from cad.experiments.run.training_stages import run_pretraining, run_training
from cad.histories.audit import require_sound
from cad.histories.collect import WorkersUse, collect
from cad.interrupt import StopFlag
from cad.locks import BusyError, folder_lock
from cad.process import MAXRSS_UNIT, prepare_process
from cad.training.ranks import SINGLE_PROCESS, Ranks


def run_stage(
    root: Path,
    stage: Stage,
    resources: Resources,
    stop: StopFlag,
    *,
    wait: bool = False,
    ranks: Ranks = SINGLE_PROCESS,
) -> None:
    """Run one stage in its directory, resuming what an earlier run left; nothing if it is done.

    With ``wait`` a stage that another process works on is waited for, otherwise refused.  All
    ``ranks`` call this alike; only the first one holds the directory and writes.
    Raises :class:`CadError` when an input is missing.
    """
    attempt = StageAttempt(root, stage)
    directory = attempt.directory
    if not ranks.first:
        if ranks.broadcast():
            _work(attempt, resources, stop, ranks)
        return
    while True:
        try:
            with folder_lock(directory.path, f"stage {stage.name}"):
                todo = not directory.done
                if ranks.broadcast(todo):
                    _run(attempt, resources, stop, ranks)
                return
        except BusyError:
            if not wait:
                raise
            stop.raise_if_set(f"waiting for stage {stage.name}")
            time.sleep(1)


def _run(attempt: StageAttempt, resources: Resources, stop: StopFlag, ranks: Ranks) -> None:
    begin(attempt)
    meter = Meter()
    finish(attempt, resources, meter, _work(attempt, resources, stop, ranks))


def begin(attempt: StageAttempt) -> None:
    """Claim the stage's directory; :class:`CadError` when an input is missing."""
    stage = attempt.stage
    for needed in stage.inputs:
        if not StageDirectory(attempt.root, needed.name).done:
            raise CadError(f"{stage.name} needs {needed.name}, which is not complete")
    attempt.claim()


class Meter:
    """Wall and CPU seconds since it was made; of stages that share a process, each counts its share."""

    def __init__(self, shared_by: int = 1) -> None:
        self._shared_by = shared_by
        self._started, self._cpu = time.perf_counter(), _cpu_seconds()

    @property
    def wall_seconds(self) -> float:
        """Seconds that have passed."""
        return (time.perf_counter() - self._started) / self._shared_by

    @property
    def cpu_seconds(self) -> float:
        """CPU time of this process and of its children that have ended."""
        return (_cpu_seconds() - self._cpu) / self._shared_by


def finish(attempt: StageAttempt, resources: Resources, meter: Meter, record: Mapping[str, Any]) -> None:
    """Mark the stage done, with what its work recorded and what it took."""
    attempt.directory.finish(
        {
            "wall_seconds": attempt.seconds_before + meter.wall_seconds,
            "attempts": attempt.number,
            "cores": resources.workers if attempt.stage.kind == "histories" else resources.threads,
            "device": pick_device(resources.device).type,
            # Of this attempt, its helpers' included.
            "cpu_seconds": meter.cpu_seconds + record.get("workers_cpu_seconds", 0.0),
            "peak_memory_bytes": _peak_memory() + record.get("workers_memory_bytes", 0),
            **({"task_of": resources.together} if resources.together > 1 else {}),
            **record,
            "made_by": {
                **environment_info(),
                **({"own_code": dict(attempt.own_code)} if attempt.own_code else {}),
                **resources.provenance,
            },
        }
    )


def _cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _peak_memory() -> int:
    """The most resident memory of this process, or of one of its children that have ended, in bytes."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return MAXRSS_UNIT * max(resource.getrusage(one).ru_maxrss for one in who)


def _work(attempt: StageAttempt, resources: Resources, stop: StopFlag, ranks: Ranks) -> dict[str, Any]:
    """What every rank does, and what the stage's record says of it; only trainings are sharded."""
    prepare_process(resources.threads)
    if attempt.stage.kind == "pretrain":
        return run_pretraining(attempt, resources, stop, ranks)
    if attempt.stage.kind == "train":
        return run_training(attempt, resources, stop, ranks)
    if not ranks.first:
        return {}
    work = _histories if attempt.stage.kind == "histories" else _evaluate
    return work(attempt, resources, stop)


def _histories(attempt: StageAttempt, resources: Resources, stop: StopFlag) -> dict[str, Any]:
    config = attempt.stage.config
    out = attempt.file(StageFile.HISTORIES)
    counts: list[int] = []
    started = time.perf_counter()

    def progress(done: int, total: int) -> None:
        counts.append(done)
        attempt.report(done, total)
        stop.raise_if_set(f"collection ({done} of {total} tasks)")

    used = WorkersUse()
    if not out.exists():
        used = collect(
            config.env, config.source, out,
            workers=resources.workers, progress=progress, stage=attempt.stage.name,
        )  # fmt: skip
    seconds = time.perf_counter() - started
    require_sound(out, config.env)
    # Tasks that this process collected, and how many at a time: estimates go by these.
    collected = counts[-1] - counts[0] if counts else 0
    return {
        "collect_seconds": seconds,
        "collected": collected,
        "workers": min(resources.workers, max(1, collected)),
        "workers_cpu_seconds": used.cpu_seconds,
        "workers_memory_bytes": used.memory_bytes,
    }


def _evaluate(attempt: StageAttempt, resources: Resources, stop: StopFlag) -> dict[str, Any]:
    config = attempt.stage.config
    model = load_trained(attempt.root, attempt.stage.inputs[0], config)
    model = model.to(pick_device(resources.device)).eval()
    trace = resources.trace
    # A long evaluation that is stopped goes on episode by episode.
    saved = RolloutFile(attempt.file(StageFile.ROLLOUT), attempt.stage.name)
    result = evaluate(
        model,
        config,
        stop,
        file=saved,
        progress=lambda done: attempt.report(done, config.evaluation.n_episodes),
        on_compress=(lambda event: trace(str(event))) if trace else None,
    )
    save_actions(attempt.file(StageFile.ACTIONS), result, attempt.stage.name)
    save_results(attempt.file(StageFile.RETURNS), result, attempt.stage.name)
    saved.remove()
    return {"steps_per_second": result.steps_per_second}
