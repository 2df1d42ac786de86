"""Draw one roll-out of a trained cell."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cad.config.evaluation import EvaluationConfig
from cad.envs.registry import task_family
from cad.envs.split import split_tasks
from cad.errors import CadError, UsageError
from cad.evaluation.actions_file import load_actions
from cad.evaluation.replay import replay_actions, rollout_keys
from cad.evaluation.results import load_results
from cad.evaluation.rollout import roll_out
from cad.experiments.plan.cells import Cell
from cad.experiments.plan.directory import StageDirectory, StageFile
from cad.experiments.run.trained_model import load_trained
from cad.process import prepare_process
from cad.reports import WatchedRollout, animation_gif, strip_png
from cad.storage import atomic_path

DRAWN = {".gif": animation_gif, ".png": strip_png}


def draw_rollout(
    root: Path, cell: Cell, task: int, rollout: int, n_episodes: int | None, out: Path
) -> tuple[WatchedRollout, str]:
    """Draw a roll-out (counted from 1) of a trained cell to ``out``; returns it, and where it comes from.

    ``task`` is the canonical id of any task.  A roll-out of the evaluation is drawn from its stored
    actions; others are rolled out now, with the evaluation's seed and settings.  Raises
    :class:`CadError` where the cell is not trained yet.
    """
    draw = DRAWN.get(out.suffix.lower())
    if draw is None:
        raise UsageError(f"--out {out}: the name must end in {' or '.join(DRAWN)}")
    config, family = cell.config, task_family(cell.config.evaluated_env)
    if not family.can_be_drawn:
        raise UsageError(
            f"env.name={config.env.name}: its tasks have no grid on which to draw a roll-out, or their "
            "episodes end early"
        )
    known = split_tasks(config.env)
    if task not in family.task_ids:
        raise UsageError(
            f"--task {task}: not a task of {config.env.name} with these settings; held out are "
            f"{_some(known.heldout)}"
        )
    kind = "held out" if task in known.heldout else "validation" if task in known.validation else "training"
    title = (
        f"{cell.label}, seed {config.seed}; task {task}, {family.describe(task)}, {kind}; roll-out {rollout}"
        + _demonstrated(config.evaluation)
    )
    watched, source = _stored(root, cell, task, rollout, n_episodes, title), "from the evaluation"
    if watched is None:
        watched, source = _rolled_out(root, cell, task, rollout, n_episodes, title)
    with atomic_path(out) as temporary:
        temporary.write_bytes(draw(watched))
    return watched, source


def _demonstrated(settings: EvaluationConfig) -> str:
    shown = settings.demonstrated_episodes
    if not shown:
        return ""
    return f"; {'episode 1 is' if shown == 1 else f'episodes 1 to {shown} are'} demonstrated"


def _some(tasks: tuple[int, ...], most: int = 20) -> str:
    return ", ".join(map(str, tasks[:most])) + (" ..." if len(tasks) > most else "")


def _stored(
    root: Path, cell: Cell, task: int, rollout: int, n_episodes: int | None, title: str
) -> WatchedRollout | None:
    """The roll-out that the evaluation stored; None where it did not store it."""
    directory, settings = StageDirectory(root, cell.evaluation.name), cell.config.evaluation
    n_episodes = n_episodes or settings.n_episodes
    inside = task in cell.config.evaluated_tasks and rollout <= settings.n_rollouts
    if not (directory.done and inside and n_episodes <= settings.n_episodes):
        return None
    file = directory.checked(StageFile.ACTIONS)
    if not file.exists():
        return None
    result = load_results(directory.checked(StageFile.RETURNS), directory.name)
    if result.compression_steps is None:
        return None
    steps = n_episodes * cell.config.evaluated_env.steps_per_episode
    actions = load_actions(file, [task], directory.name)[0, rollout - 1, :steps]
    compression_steps = result.compression_steps[result.task_ids.index(task), rollout - 1]
    return WatchedRollout(
        title,
        replay_actions(
            task_family(cell.config.evaluated_env),
            [task],
            actions[None],
            rollout_keys(settings.seed, [task], 1, rollout - 1),
        ),
        _within(compression_steps, steps),
    )


def _within(compression_steps: np.ndarray, steps: int) -> tuple[int, ...]:
    return tuple(int(moment) for moment in compression_steps if 0 < moment < steps)


def _rolled_out(
    root: Path, cell: Cell, task: int, rollout: int, n_episodes: int | None, title: str
) -> tuple[WatchedRollout, str]:
    training, config = StageDirectory(root, cell.training.name), cell.config
    if not training.done:
        raise CadError(
            f"{cell.label}, seed {config.seed} is not trained yet ({training.path} is not complete)"
        )
    if config.evaluation.knock_out is not None:
        raise CadError(
            f"{cell.label}, seed {config.seed}: evaluation.knock_out={config.evaluation.knock_out} needs "
            "all roll-outs of the evaluation, so that one is drawn from a finished evaluation only; make it "
            "with 'cad run'"
        )
    prepare_process(1)
    model = load_trained(root, cell.training, config).eval()
    family, settings = task_family(config.evaluated_env), config.evaluation
    # Earlier roll-outs run with it: the random numbers of each depend on its place among them.
    result = roll_out(
        model,
        family,
        [task],
        n_rollouts=rollout,
        n_episodes=n_episodes or settings.n_episodes,
        seed=settings.seed,
        temperature=settings.temperature_at,
        greedy=settings.greedy,
        demonstrated=settings.demonstrated_episodes,
    )
    assert result.actions is not None
    assert result.compression_steps is not None
    paths = replay_actions(
        family, [task], result.actions[0, -1:], rollout_keys(settings.seed, [task], 1, rollout - 1)
    )
    compression_steps = _within(result.compression_steps[0, -1], paths.actions.shape[1])
    return WatchedRollout(title, paths, compression_steps), "rolled out now" + _compared(
        root, cell, task, rollout, paths.returns[0]
    )


def _compared(root: Path, cell: Cell, task: int, rollout: int, returns: np.ndarray) -> str:
    """In words, whether the evaluation has this roll-out with the same returns."""
    directory, settings = StageDirectory(root, cell.evaluation.name), cell.config.evaluation
    if not directory.done or rollout > settings.n_rollouts:
        return ""
    stored = load_results(directory.checked(StageFile.RETURNS), directory.name)
    if task not in stored.task_ids:
        return ""
    both = min(len(returns), settings.n_episodes)
    before = stored.returns[stored.task_ids.index(task), rollout - 1, :both]
    if np.array_equal(before, returns[:both]):
        return "; the same returns as in the evaluation"
    return "; NOT the returns of the evaluation (another machine or batch size rounds differently)"
