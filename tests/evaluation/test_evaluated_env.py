"""Roll-outs in an environment that training did not have."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cad.experiments.plan.cells import Cell
from cad.experiments.run.trained_model import evaluate
from cad.interrupt import StopFlag


@pytest.fixture
def config(tiny_config):
    base = tiny_config(evaluation={"n_episodes": 3, "n_rollouts": 2}).model_dump(mode="json")
    env = {"name": "t_maze", "corridor": 5, "n_heldout": 3, "n_validation": 2}
    source = {"kind": "learner", "steps_per_stream": 60}
    return lambda **evaluation: type(tiny_config()).model_validate(
        {**base, "env": env, "source": source, "evaluation": {**base["evaluation"], **evaluation}}
    )


def test_a_model_is_put_into_longer_corridors(config, loud_model):
    far = config(env={"corridor": 20})
    assert (far.env.steps_per_episode, far.evaluated_env.steps_per_episode) == (6, 21)
    model = loud_model(far)
    with torch.no_grad():
        result = evaluate(model, far, StopFlag())
    assert result.task_ids == config().evaluated_tasks  # the same tasks
    assert result.returns.shape == (3, 2, 3)
    assert np.asarray(result.actions).shape == (3, 2, 3 * 21)


def test_all_corridors_are_as_long_as_the_one_that_is_given(config):
    drawn = config(env={"corridor": 20})
    env = drawn.env.model_copy(update={"shortest": 2})
    drawn = drawn.model_copy(update={"env": env})
    assert (env.n_corridors, drawn.evaluated_env.n_corridors, drawn.evaluated_env.corridor) == (4, 1, 20)


def test_one_training_serves_all_and_the_old_names_hold(config):
    plain, near, far = (
        Cell("", "", config(**settings))
        for settings in ({}, {"env": {"corridor": 20}}, {"env": {"corridor": 40}})
    )
    assert len({cell.training.name for cell in (plain, near, far)}) == 1
    assert len({cell.evaluation.name for cell in (plain, near, far)}) == 3
    assert plain.evaluation.name == Cell("", "", config(env=None)).evaluation.name


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"n_cues": 3}, r"evaluation\.env\.n_cues: of env\.name=t_maze only horizon and corridor may differ"),
        ({"horizon": 3}, r"evaluation\.env.*horizon=3: a corridor of 5 steps and the choice take 6"),
        ({"corridor": 0}, r"evaluation\.env.*corridor: Input should be greater than or equal to 1"),
    ],
)
def test_what_changes_the_tasks_is_refused(env, message, config):
    with pytest.raises(ValueError, match=message):
        config(env=env)


def test_a_horizon_that_reaches_no_goal_is_refused(tiny_config):
    assert tiny_config(evaluation={"env": {"horizon": 9}}).evaluated_env.steps_per_episode == 9
    with pytest.raises(ValueError, match=r"evaluation\.env\.horizon=3: .*4 steps away"):
        tiny_config(evaluation={"env": {"horizon": 3}})
