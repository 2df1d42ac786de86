"""The loop of a pack: what :func:`cad.training.loop.train` is for one training, for several at once.

A training in a pack has the samples, masks, schedule and files that it has alone, so that either loop goes on
from the other's checkpoints.  Its numbers differ from those of a training alone by rounding only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from cad.errors import CadError
from cad.interrupt import StopFlag
from cad.training.engines import require_ranks
from cad.training.packed.captured import stack_of
from cad.training.training import Training, TrainingSummary

Outcome = TrainingSummary | CadError
"""How a training ended."""


def train_together(
    trainings: Sequence[Training],
    stop: StopFlag,
    *,
    vmapped: bool = True,
    leaves: Callable[[Training], str | None] = lambda _training: None,
) -> Iterator[tuple[Training, Outcome]]:
    """Train in place, resuming from each training's folder; gives each training as it ends, and its outcome.

    Models and batches have equal shapes (:func:`~cad.training.packed.shape.pack_key`).  A training that
    fails, as one that diverges or whose watchdog objects, leaves the pack with its error; the others go on.
    ``vmapped`` is False for networks that ``torch.vmap`` cannot run.  ``leaves`` is asked after every update
    whether, and why, a training is to leave: it is saved, and ends with a :class:`CadError`.

    Raises :class:`~cad.interrupt.InterruptedRun`, after all were saved, when ``stop`` is set.
    """
    with contextlib.ExitStack() as all_files:
        files: dict[int, contextlib.ExitStack] = {}
        live: list[Training] = []
        states: list[dict[str, Tensor]] = []
        for training in trainings:
            try:
                states.append(training.resume())
                files[id(training)] = all_files.enter_context(contextlib.ExitStack())
                files[id(training)].enter_context(training.recording())
            except CadError as error:
                del states[len(live) :]
                yield training, error
            else:
                live.append(training)
        if not live:
            return
        stack = stack_of(live, vmapped=vmapped)
        for number, state in enumerate(states):
            stack.load_optimiser_state(number, state)
        del states
        while live:
            going = [number for number, training in enumerate(live) if not training.finished]
            ended = [training for training in live if training.finished]
            if ended:
                stack.keep(going)
                live = [live[number] for number in going]
                for training in ended:
                    files[id(training)].close()
                    yield training, training.summary
                continue
            stack.update()
            stopping = stop()
            failed: dict[int, CadError] = {}
            for number, training in enumerate(live):
                training.pass_time(shared_by=len(live))
                try:
                    training.report(lambda: None)
                    why = leaves(training)
                    if training.is_due_to_save or stopping or why is not None:
                        training.save(stack.optimiser_state(number))
                        training.require_going_on()
                    if why is not None and not training.finished:
                        raise CadError(why)
                except CadError as error:
                    failed[number] = error
            if failed:
                left = live
                going = [number for number in range(len(live)) if number not in failed]
                stack.keep(going)
                live = [live[number] for number in going]
                for number, outcome in failed.items():
                    files[id(left[number])].close()
                    yield left[number], outcome
            if stopping and any(not training.finished for training in live):
                ended = [training for training in live if training.finished]
                for training in ended:
                    files[id(training)].close()
                    yield training, training.summary
                going_on = [training for training in live if not training.finished]
                stop.raise_if_set(
                    going_on[0].place
                    if len(going_on) == 1
                    else f"training of {len(going_on)} models together"
                )


def train_in_graphs(training: Training, stop: StopFlag) -> TrainingSummary:
    """What :func:`cad.training.loop.train` does in one process, as a pack of one.

    On a GPU, where a pack's updates are CUDA graphs, that is several times as fast; its numbers differ by
    rounding only.
    """
    require_ranks(training.settings, training.objective.section, training.ranks.size)
    ((_, outcome),) = train_together([training], stop)
    if isinstance(outcome, CadError):
        raise outcome
    return outcome
