"""Roll-outs of the best model in the task that it does best and worst in, for the report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cad.envs.tasks import task_family
from cad.evaluation.paths import follow
from cad.reports.aggregate import Group, Study, last_episodes
from cad.reports.rollout_drawing import WatchedRollout, draw_strips
from cad.reports.style import Drawing, render
from cad.reports.tables import Table, Value


@dataclass(frozen=True)
class ChosenRollout:
    """A roll-out with what a reader needs to draw it again."""

    which: str  # "best" or "worst"
    group: Group
    seed: int
    task_id: int
    rollout: int  # from 0
    watched: WatchedRollout


def chosen_rollouts(study: Study) -> list[ChosenRollout]:
    """In the best and the worst task of the best cell, the roll-out in the middle by its last episodes.

    Empty where nothing can be compared or that cell's evaluation did not keep its actions.
    """
    lead = study.best(ad=False) or study.best(ad=True)
    if lead is None or not study.comparable:
        return []
    cell = max(lead.done, key=lambda cell: cell.normalised_last10 or 0.0)
    result = cell.result
    if result.actions is None or cell.normalised is None:
        return []
    last = last_episodes(cell.normalised.shape[2])
    scores = cell.normalised[:, :, -last:].mean(axis=2)  # (tasks, rollouts)
    family = task_family(result.config.env)
    order = np.argsort(scores.mean(axis=1), kind="stable")
    found = []
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
            follow(family, [task], result.actions(task)[rollout : rollout + 1]),
            tuple(moment for moment in compression_steps if moment > 0),
        )
        found.append(ChosenRollout(which, lead, result.config.seed, task, rollout, watched))
    return found


def rollout_tables(study: Study) -> dict[str, Table]:
    """The steps that are drawn; no table where there are none."""
    rows: list[tuple[Value, ...]] = []
    for chosen in chosen_rollouts(study):
        paths, horizon = chosen.watched.paths, chosen.watched.paths.family.horizon
        name = (chosen.group.label, chosen.seed, chosen.task_id, chosen.rollout + 1)
        for step, ((row, column), action, reward) in enumerate(
            zip(paths.states[0].tolist(), paths.actions[0].tolist(), paths.rewards[0].tolist(), strict=True)
        ):
            compressed = int(step in chosen.watched.compression_steps)
            rows.append(
                (*name, step // horizon + 1, step % horizon + 1, row, column, action, reward, compressed)
            )
    columns = ("label", "seed", "task_id", "rollout", "episode", "step", "row", "column", "action", "reward",
               "compressed_before")  # fmt: skip
    return {"rollouts": Table(columns, rows)} if rows else {}


def draw_rollouts(study: Study) -> Drawing | None:
    """Strips of the chosen roll-outs; None without any."""
    chosen = chosen_rollouts(study)
    if not chosen:
        return None
    lead = chosen[0]
    firsts = [_first_reward(entry) for entry in chosen]
    screen, paper = render(draw_strips([entry.watched for entry in chosen]), "rollouts")
    return Drawing(
        "rollouts",
        "What a roll-out looks like",
        f"{lead.group.label}, seed {lead.seed}, the best cell: paths on the grid in some episodes (bars in "
        "full colour), and the return of every episode. Of each task's roll-outs the one in the middle by "
        "its last episodes. Each path drifts to the lower right as it goes on, so that moves to and "
        "fro, and waiting, can be told apart. `cad watch-rollout` draws any other.",
        "Maps of paths by episode above bars of the return. " + " ".join(firsts),
        ("rollouts",),
        screen,
        paper,
    )


def _first_reward(chosen: ChosenRollout) -> str:
    returns = chosen.watched.returns
    rewarded = np.flatnonzero(returns)
    last = last_episodes(len(returns))
    text = f"In the {chosen.which} task the mean return over the last {last} is {returns[-last:].mean():.1f}"
    if len(rewarded):
        return text + f"; the first reward comes in episode {rewarded[0] + 1}."
    return text + "; it is never rewarded."
