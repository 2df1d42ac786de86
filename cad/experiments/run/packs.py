"""Packs: training stages of one shape that one process works on together.

How many is a matter of how an experiment is run, not of what it is: every stage keeps its own directory,
lock, checkpoints and outcome, and one that began alone goes on in a pack or the other way round.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cad.envs.split import split_tasks
from cad.errors import CadError
from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.stage import Stage
from cad.experiments.run.attempt import StageAttempt
from cad.experiments.run.resources import Resources
from cad.experiments.run.stages import Meter, begin, finish
from cad.experiments.run.training_stages import (
    prepare_training,
    save_trained,
    training_arrays,
    training_of,
)
from cad.histories.sampler import HistoryArrays
from cad.interrupt import InterruptedRun, StopFlag
from cad.locks import BusyError, folder_lock
from cad.process import prepare_process
from cad.training.learner import Learner
from cad.training.packed.loop import train_together
from cad.training.training import PrunedError, Training

log = logging.getLogger(__name__)


@dataclass
class _Member:
    """A stage of a pack while it is trained; closing ``held`` gives its directory back."""

    attempt: StageAttempt
    meter: Meter
    learner: Learner
    training: Training
    held: contextlib.ExitStack


_ASK_EVERY_SECONDS = 5.0


class _Cancelled:
    """Why a training of a pack is to leave: what `cad cancel` left in its directory, if anything."""

    def __init__(self, members: Mapping[int, _Member]) -> None:
        self._members, self._asked = members, {number: time.monotonic() for number in members}

    def __call__(self, training: Training) -> str | None:
        now = time.monotonic()
        if now < self._asked[id(training)] + _ASK_EVERY_SECONDS:
            return None
        self._asked[id(training)] = now
        return self._members[id(training)].attempt.directory.failure()


def run_pack(root: Path, stages: Sequence[Stage], resources: Resources, stop: StopFlag) -> list[Stage]:
    """Train the stages that are not done together; those that another process works on, which are left out.

    A stage that fails has the reason recorded in its directory; the others go on.  Raises
    :class:`InterruptedRun` after all were saved.
    """
    prepare_process(resources.threads)
    arrays: dict[tuple[str, tuple[int, ...]], HistoryArrays] = {}
    members, busy = [], []
    with contextlib.ExitStack() as all_held:
        for stage in stages:
            held = all_held.enter_context(contextlib.ExitStack())
            directory = StageDirectory(root, stage.name)
            try:
                held.enter_context(folder_lock(directory.path, f"stage {stage.name}"))
            except BusyError:
                busy.append(stage)
                continue
            if directory.done:
                held.close()
                continue
            directory.clear_failure()
            with _recorded(directory) as failed:
                meter = Meter(shared_by=len(stages))
                members.append(_begin(StageAttempt(root, stage), meter, resources, arrays, held))
            if failed:
                held.close()
        del arrays
        left = {id(member.training): member for member in members}
        vmapped = all(member.attempt.stage.config.spec.stacks for member in members)
        try:
            trained = train_together(
                [member.training for member in members], stop, vmapped=vmapped, leaves=_Cancelled(left)
            )
            for training, outcome in trained:
                member = left.pop(id(training))
                with _recorded(member.attempt.directory):
                    if isinstance(outcome, CadError):
                        raise outcome
                    record = save_trained(member.attempt, member.learner, outcome)
                    finish(member.attempt, resources, member.meter, {**record, "pack": len(members)})
                member.held.close()
        except InterruptedRun:
            raise
        except Exception as error:  # of what they do together: nobody knows whose fault it is
            stop.raise_if_set(f"{len(left)} stages")
            for member in left.values():
                member.attempt.directory.record_error(error)
            raise
    return busy


def _begin(
    attempt: StageAttempt,
    meter: Meter,
    resources: Resources,
    arrays: dict[tuple[str, tuple[int, ...]], HistoryArrays],
    held: contextlib.ExitStack,
) -> _Member:
    """Claim the stage's directory and build what it trains; ``arrays`` keeps what several of them read."""
    begin(attempt)
    config = attempt.stage.config
    key = attempt.stage.inputs[0].name, tuple(split_tasks(config.env).train)
    own = arrays.get(key)
    if own is None or config.train.stream:
        own = training_arrays(attempt)
        if not config.train.stream:
            arrays[key] = own
    learner = prepare_training(attempt, own)
    training = training_of(attempt, learner, resources)
    return _Member(attempt, meter, learner, training, held)


@contextlib.contextmanager
def _recorded(directory: StageDirectory) -> Iterator[list[Exception]]:
    """A failure within the block is logged and recorded in the stage's directory; the list then holds it."""
    failed: list[Exception] = []
    try:
        yield failed
    except InterruptedRun:
        raise
    except PrunedError as error:
        directory.record_pruned(str(error))
        failed.append(error)
    except Exception as error:
        # Of an error that is a bug the log has all there is to know.
        log.error("%s: %s", directory.name, error, exc_info=not isinstance(error, CadError))
        directory.record_error(error)
        failed.append(error)
