"""Cumulative regret beside the family's reference learners."""

from __future__ import annotations

import numpy as np

from cad.envs.registry import task_family
from cad.evaluation.scripted import cumulative_regret, play
from cad.reports.data import make_study, regret_tables
from cad.reports.plotting.style import drawing_style
from cad.reports.questions.regret import SECTION

BANDIT = {"env": {"name": "bandit", "n_tasks": 40, "n_heldout": 6, "horizon": 10}}
EPISODES = 30


def played(cell, lost, **changes):
    """A cell that loses ``lost`` rewards in every episode."""
    result = cell(**changes)
    config = result.config.with_overrides(BANDIT, "test")
    family, tasks = task_family(config.env), config.evaluated_tasks
    optimal = tuple(family.optimal_return(task) for task in tasks)
    returns = np.broadcast_to(np.array(optimal)[:, None, None] - lost, (6, 4, EPISODES)).copy()
    return cell(
        **changes, config=config, task_ids=tasks, goals=tuple(family.goal(task) for task in tasks),
        optimal=optimal, returns=returns, compressions=np.zeros((6, 4)),
    )  # fmt: skip


def study(cells):
    return make_study("r", "", "", cells, None)


def test_models_are_shown_beside_thompson_sampling_and_ucb1(cell):
    bandit = study([played(cell, 1.5), played(cell, 0.5, seed=1), played(cell, 2.0, kind="ad", window=80)])
    table = regret_tables(bandit)["regret"]
    curves: dict[tuple[object, object], list[float]] = {}
    for label, seed, _, regret in table.rows:
        curves.setdefault((label, seed), []).append(regret)
    assert len(curves) == 5
    np.testing.assert_allclose(curves["AD, window 80", 0], 2 * np.arange(1, EPISODES + 1))
    config = bandit.shared_config
    family, tasks = task_family(config.env), config.evaluated_tasks
    optima = np.array([family.optimal_return(task) for task in tasks])[:, None, None]
    for name, title in (("thompson", "Thompson sampling"), ("ucb1", "UCB1")):
        returns = play(family, tasks, name, n_rollouts=4, n_episodes=EPISODES, seed=config.evaluation.seed)
        wanted = cumulative_regret(returns, optima).mean(axis=(0, 1))
        np.testing.assert_allclose(curves[title, None], wanted)
        # It loses ever less: more in the first third than in the last.
        assert wanted[9] > wanted[-1] - wanted[19]
    text = SECTION.sentence(bandit)
    assert "loses 30.0 rewards to an agent that knows the task, AD with window 80 60.0; programs" in text
    thompson, ucb1 = (curves[title, None][-1] for title in ("Thompson sampling", "UCB1"))
    assert text.endswith(f"from scratch: Thompson sampling {thompson:.1f}, UCB1 {ucb1:.1f}.")
    with drawing_style():
        drawing = SECTION.figures[0](bandit)
    assert drawing is not None and drawing.prints is not None and drawing.prints.png.startswith(b"\x89PNG")


def test_what_chance_decides_is_that_of_the_roll_outs(cell):
    family = task_family(played(cell, 1.0).config.env)
    one = play(family, family.task_ids[:2], "ucb1", n_rollouts=2, n_episodes=3, seed=0)
    again = play(family, family.task_ids[:2], "ucb1", n_rollouts=2, n_episodes=3, seed=0)
    other = play(family, family.task_ids[:2], "ucb1", n_rollouts=2, n_episodes=3, seed=1)
    assert one.tolist() == again.tolist() != other.tolist()
    assert one.shape == (2, 2, 3)


def test_families_without_references_have_no_such_section(quickstart):
    darkroom = study(quickstart)
    assert regret_tables(darkroom) == {}
    assert SECTION.sentence(darkroom) == ""
    assert SECTION.figures[0](darkroom) is None
