"""When roll-outs compressed: recorded by looking at a memory's counts after every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cad.models import Memory

MOST_NAMED = 8  # roll-outs that a line of the trace names

CompressionSteps = tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class CompressionEvent:
    """Roll-outs (task id, roll-out) that compressed after ``step`` steps, for one and the same reason.

    ``chosen`` says whether the model asked for it; otherwise its window was full.  ``lengths`` are
    the steps since each one's compression before; ``total`` is the number of all roll-outs.
    """

    step: int
    horizon: int
    rollouts: tuple[tuple[int, int], ...]
    lengths: tuple[int, ...]
    chosen: bool
    total: int

    def __str__(self) -> str:
        """One line for people; steps, episodes and roll-outs are counted from one."""
        if len(self.rollouts) == self.total:
            who = f"all {self.total} roll-outs" if self.total > 1 else "the roll-out"
        else:
            named = [f"task {task} roll-out {rollout + 1}" for task, rollout in self.rollouts[:MOST_NAMED]]
            left = len(self.rollouts) - len(named)
            who = ", ".join(named) + (f" and {left} more" if left else "")
            who = f"{len(self.rollouts)} of {self.total}: {who}"
        episode, t = divmod(self.step - 1, self.horizon)
        low, high = min(self.lengths), max(self.lengths)
        span = f"{low} steps" if low == high else f"{low} to {high} steps"
        why = "</compress> emitted" if self.chosen else "window full"
        return f"step {self.step} (episode {episode + 1}, step {t + 1}): {why}, {span} compressed; {who}"


class CompressionRecorder:
    """Notes, for every roll-out of a batch, after which steps it compressed.

    ``tell`` is called with every compression when it is seen.
    """

    def __init__(
        self,
        task_ids: Sequence[int],
        n_rollouts: int,
        horizon: int,
        tell: Callable[[CompressionEvent], None] | None = None,
    ) -> None:
        self._rollouts = [(int(task), rollout) for task in task_ids for rollout in range(n_rollouts)]
        self._shape = (len(task_ids), n_rollouts)
        self._horizon = horizon
        self._tell = tell
        self._count, self._chosen, self._last = np.zeros((3, len(self._rollouts)), dtype=np.int64)
        self._record: list[list[tuple[int, bool]]] = [[] for _ in self._rollouts]

    def look(self, step: int, memory: Memory) -> None:
        """Note by how much a memory's counts have grown since the last look, ``step`` steps in."""
        new = np.broadcast_to(memory.compressions != self._count, len(self._record))
        if not new.any():
            return
        asked = np.broadcast_to(memory.chosen != self._chosen, len(self._record))
        self._count[:], self._chosen[:] = memory.compressions, memory.chosen
        self.note(step, new, asked)

    def note(self, step: int, new: npt.NDArray[np.bool_], asked: npt.NDArray[np.bool_]) -> None:
        """Roll-outs where ``new`` (B,) compressed after ``step`` steps, by choice where ``asked``."""
        for chosen in (True, False):
            rows = np.flatnonzero(new & (asked == chosen)).tolist()
            for row in rows:
                self._record[row].append((step, chosen))
            if rows and self._tell:
                rollouts = tuple(self._rollouts[row] for row in rows)
                lengths = tuple(int(step - self._last[row]) for row in rows)
                self._tell(
                    CompressionEvent(step, self._horizon, rollouts, lengths, chosen, len(self._record))
                )
        self._last[new] = step

    def compression_steps(self) -> CompressionSteps:
        """Steps and whether they were chosen, (tasks, roll-outs, most compressions); -1 is none."""
        most = max(map(len, self._record))
        steps = np.full((len(self._record), most), -1, dtype=np.int32)
        chosen = np.zeros(steps.shape, dtype=np.bool_)
        for row, record in enumerate(self._record):
            for k, (step, asked) in enumerate(record):
                steps[row, k], chosen[row, k] = step, asked
        return steps.reshape(*self._shape, most), chosen.reshape(*self._shape, most)


def replay(
    compression_steps: CompressionSteps,
    task_ids: Sequence[int],
    horizon: int,
    tell: Callable[[CompressionEvent], None],
) -> None:
    """Tell of stored compressions in the order in which they happened."""
    steps, chosen = (part.reshape(part.shape[0] * part.shape[1], -1) for part in compression_steps)
    recorder = CompressionRecorder(task_ids, compression_steps[0].shape[1], horizon, tell)
    for step in np.unique(steps[steps > 0]).tolist():
        recorder.note(step, (steps == step).any(axis=1), (chosen & (steps == step)).any(axis=1))
