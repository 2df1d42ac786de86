"""When roll-outs compressed: recorded from a memory's counts after every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cad.models.memory import Counts, Memory

MOST_NAMED = 8  # roll-outs named in one line of the trace

CompressionSteps = tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class CompressionEvent:
    """Roll-outs (task id, roll-out) that compressed after ``step`` steps for the same reason.

    ``chosen`` says whether the model asked for it; otherwise its window was full.  ``lengths`` are
    the steps since each one's previous compression; ``total`` is the number of all roll-outs.
    """

    step: int
    horizon: int | None
    rollouts: tuple[tuple[int, int], ...]
    lengths: tuple[int, ...]
    chosen: bool
    total: int

    def __str__(self) -> str:
        """One line of the trace; steps, episodes and roll-outs are counted from one."""
        if len(self.rollouts) == self.total:
            who = f"all {self.total} roll-outs" if self.total > 1 else "the roll-out"
        else:
            named = [f"task {task} roll-out {rollout + 1}" for task, rollout in self.rollouts[:MOST_NAMED]]
            left = len(self.rollouts) - len(named)
            who = ", ".join(named) + (f" and {left} more" if left else "")
            who = f"{len(self.rollouts)} of {self.total}: {who}"
        where = f"step {self.step}"
        if self.horizon is not None:  # else each roll-out is in an episode of its own
            episode, t = divmod(self.step - 1, self.horizon)
            where += f" (episode {episode + 1}, step {t + 1})"
        low, high = min(self.lengths), max(self.lengths)
        span = f"{low} steps" if low == high else f"{low} to {high} steps"
        why = "</compress> emitted" if self.chosen else "window full"
        return f"{where}: {why}, {span} compressed; {who}"


class CompressionRecorder:
    """Records, for every roll-out of a batch, the steps after which it compressed.

    ``on_compress`` is called with every compression when it is recorded.
    """

    def __init__(
        self,
        task_ids: Sequence[int],
        n_rollouts: int,
        horizon: int | None,
        on_compress: Callable[[CompressionEvent], None] | None = None,
    ) -> None:
        self._rollouts = [(int(task), rollout) for task in task_ids for rollout in range(n_rollouts)]
        self._shape = (len(task_ids), n_rollouts)
        self._horizon = horizon
        self._on_compress = on_compress
        self._count, self._chosen, self._last = np.zeros((3, len(self._rollouts)), dtype=np.int64)
        self._seen: Counts = 0
        self._record: list[list[tuple[int, bool]]] = [[] for _ in self._rollouts]

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(B,) compressions so far."""
        return self._count

    def restore(
        self,
        steps: npt.NDArray[np.int32],
        chosen: npt.NDArray[np.bool_],
        memory: Memory,
        playing: npt.NDArray[np.bool_] | bool = True,
    ) -> None:
        """Take over what was recorded until now, (B, most compressions) each, with the memory of now.

        Of roll-outs that are not ``playing`` (B,) any more the memory counts what was left out.
        """
        for row, record in enumerate(self._record):
            made = steps[row] >= 0
            record[:] = list(zip(steps[row][made].tolist(), chosen[row][made].tolist(), strict=True))
            self._last[row] = record[-1][0] if record else 0
        recorded = (steps >= 0).sum(axis=1)
        self._count = np.where(playing, memory.compressions, recorded).astype(np.int64)
        self._chosen = np.broadcast_to(memory.chosen, len(self._record)).astype(np.int64)

    def observe(self, step: int, memory: Memory, playing: npt.NDArray[np.bool_] | bool = True) -> None:
        """Record by how much a memory's counts have grown since the last call, after ``step`` steps.

        Roll-outs that are not ``playing`` (B,) any more are left as they are.
        """
        if isinstance(memory.compressions, int) and memory.compressions == self._seen:
            return
        self._seen = memory.compressions
        new = np.broadcast_to(memory.compressions != self._count, len(self._record)) & playing
        if not new.any():
            return
        asked = np.broadcast_to(memory.chosen != self._chosen, len(self._record))
        self._count = np.where(playing, memory.compressions, self._count)
        self._chosen = np.where(playing, memory.chosen, self._chosen)
        self.record(step, new, asked)

    def record(self, step: int, new: npt.NDArray[np.bool_], asked: npt.NDArray[np.bool_]) -> None:
        """Record that roll-outs ``new`` (B,) compressed after ``step`` steps, by choice where ``asked``."""
        for chosen in (True, False):
            rows = np.flatnonzero(new & (asked == chosen)).tolist()
            for row in rows:
                self._record[row].append((step, chosen))
            if rows and self._on_compress:
                rollouts = tuple(self._rollouts[row] for row in rows)
                lengths = tuple(int(step - self._last[row]) for row in rows)
                self._on_compress(
                    CompressionEvent(step, self._horizon, rollouts, lengths, chosen, len(self._record))
                )
        self._last[new] = step

    def compression_steps(self) -> CompressionSteps:
        """As :meth:`record_by_rollout`, but (tasks, roll-outs, most compressions)."""
        steps, chosen = self.record_by_rollout()
        return steps.reshape(*self._shape, -1), chosen.reshape(*self._shape, -1)

    def record_by_rollout(self) -> CompressionSteps:
        """Steps, and whether they were chosen: (B, most compressions); -1 where none."""
        most = max(map(len, self._record))
        steps = np.full((len(self._record), most), -1, dtype=np.int32)
        chosen = np.zeros(steps.shape, dtype=np.bool_)
        for row, record in enumerate(self._record):
            for k, (step, asked) in enumerate(record):
                steps[row, k], chosen[row, k] = step, asked
        return steps, chosen


def replay(
    compression_steps: CompressionSteps,
    task_ids: Sequence[int],
    horizon: int | None,
    on_compress: Callable[[CompressionEvent], None],
) -> None:
    """Call ``on_compress`` with stored compressions in the order in which they happened."""
    steps, chosen = (part.reshape(part.shape[0] * part.shape[1], -1) for part in compression_steps)
    recorder = CompressionRecorder(task_ids, compression_steps[0].shape[1], horizon, on_compress)
    for step in np.unique(steps[steps > 0]).tolist():
        recorder.record(step, (steps == step).any(axis=1), (chosen & (steps == step)).any(axis=1))
