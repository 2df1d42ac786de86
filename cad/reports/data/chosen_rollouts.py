"""Roll-outs to look at: those of the best cell in its best and its worst task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cad.envs.registry import task_family
from cad.evaluation.replay import Trajectories, replay_actions, rollout_keys
from cad.reports.data.cells import last_episodes
from cad.reports.data.model_result import ModelResult
from cad.reports.data.study import Study
from cad.reports.data.tables import Table, Value, table_if_any


@dataclass(frozen=True)
class WatchedRollout:
    """One roll-out to draw; ``paths`` holds only this one.

    ``compression_steps`` are the steps, counted from the start of the roll-out, after which it compressed.
    """

    title: str
    paths: Trajectories
    compression_steps: tuple[int, ...]

    @property
    def returns(self) -> npt.NDArray[np.int64]:
        """(episodes,)."""
        returns: npt.NDArray[np.int64] = self.paths.returns[0]
        return returns

    @property
    def n_episodes(self) -> int:
        """Episodes of the roll-out."""
        return len(self.returns)

    def compressed_before(self, episode: int) -> list[int]:
        """The steps of an episode (from 0) before which it compressed."""
        horizon = self.paths.family.horizon
        return [step - episode * horizon for step in self.compression_steps if step // horizon == episode]


@dataclass(frozen=True)
class ChosenRollout:
    """A roll-out with the numbers that identify it."""

    which: str  # "best" or "worst"
    model: ModelResult
    seed: int
    task_id: int
    rollout: int  # from 0
    watched: WatchedRollout


def chosen_rollouts(study: Study) -> list[ChosenRollout]:
    """In the best and the worst task of the best cell, the roll-out in the middle by its last episodes.

    Empty where nothing can be compared, tasks have no grid to draw, or that cell's evaluation did not
    keep its actions.
    """
    lead = study.lead
    if lead is None or not study.comparable or not task_family(lead.config.evaluated_env).can_be_drawn:
        return []
    cell = max(lead.done, key=lambda cell: cell.normalised_last10 or 0.0)
    result = cell.result
    if result.actions is None or cell.normalised is None:
        return []
    last = last_episodes(cell.normalised.shape[2])
    scores = cell.normalised[:, :, -last:].mean(axis=2)  # (tasks, rollouts)
    family = task_family(result.config.evaluated_env)
    order = np.argsort(scores.mean(axis=1), kind="stable")
    rollouts = []
    for which, i in dict(zip(("best", "worst"), (int(order[-1]), int(order[0])), strict=True)).items():
        if which == "worst" and len(order) == 1:
            continue
        # The lower of the two in the middle: an extreme one would be an anecdote.
        rollout = int(np.argsort(scores[i], kind="stable")[(scores.shape[1] - 1) // 2])
        task = result.task_ids[i]
        compression_steps = (
            () if result.compression_steps is None else result.compression_steps[i, rollout].tolist()
        )
        title = (
            f"{which.capitalize()} task, {family.describe(task)}: {scores[i].mean():.2f} of the optimum; "
            f"task {task}, roll-out {rollout + 1}"
        )
        watched = WatchedRollout(
            title,
            replay_actions(
                family,
                [task],
                result.actions(task)[rollout : rollout + 1],
                rollout_keys(result.config.evaluation.seed, [task], 1, rollout),
            ),
            tuple(step for step in compression_steps if step > 0),
        )
        rollouts.append(ChosenRollout(which, lead, result.config.seed, task, rollout, watched))
    return rollouts


def rollout_tables(study: Study) -> dict[str, Table]:
    """``rollouts``: the steps of the chosen roll-outs, where there are any."""
    rows: list[tuple[Value, ...]] = []
    fields: tuple[str, ...] = ()  # of an observation; all are of one family
    for chosen in chosen_rollouts(study):
        paths, horizon = chosen.watched.paths, chosen.watched.paths.family.horizon
        fields = paths.family.spaces.field_names
        name = (chosen.model.label, chosen.seed, chosen.task_id, chosen.rollout + 1)
        for step, (state, action, reward) in enumerate(
            zip(paths.states[0].tolist(), paths.actions[0].tolist(), paths.rewards[0].tolist(), strict=True)
        ):
            observed = (step // horizon + 1, step % horizon + 1, *state[: len(fields)])
            compressed = int(step in chosen.watched.compression_steps)
            rows.append((*name, *observed, action, reward, compressed))
    columns = ("label", "seed", "task_id", "rollout", "episode", "step", *fields, "action", "reward",
               "compressed_before")  # fmt: skip
    return table_if_any("rollouts", columns, rows)
