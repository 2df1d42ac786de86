"""Episodes whose optimal actions a model is shown before it acts itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lake_ring import NAME

from cad.envs.registry import task_family
from cad.evaluation import rollout
from cad.evaluation.replay import rollout_keys
from cad.evaluation.rollout import ActionSampler, roll_out
from cad.experiments.run.trained_model import evaluate
from cad.interrupt import StopFlag
from cad.models.registry import new_memory

SHOWN, EPISODES = 3, 6
KINDS = ["ad", "compressed_ad", "region_ad", "gru", "linear_attention"]
CUED = {"name": "cued_darkroom", "size": 3, "horizon": 6, "n_cues": 2, "n_tasks": 6, "n_heldout": 2}
LAKE = {"env.name": NAME, "env.n_heldout": 2, "env.n_validation": 1}


class Watched:
    """A memory that records what it is given: rows of [observation, previous action, reward, first]."""

    def __init__(self, inner):
        self.inner, self.seen = inner, []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def observe(self, step):
        parts = [step.observation[:, 0], step.previous_action, step.previous_reward, step.first]
        self.seen.append(torch.cat(parts, dim=1).clone())
        return self.inner.observe(step)


def cued(tiny_config, loud_model, kind="compressed_ad", **evaluation):
    settings = {"n_episodes": EPISODES, "n_rollouts": 3, "demonstrated_episodes": SHOWN, **evaluation}
    config = tiny_config(kind, env=CUED, evaluation=settings)
    return config, loud_model(config)


@pytest.mark.parametrize("kind", KINDS)
def test_demonstrated_episodes_return_their_optimum(kind, tiny_config, loud_model):
    config, model = cued(tiny_config, loud_model, kind)
    result = evaluate(model, config, StopFlag())
    np.testing.assert_array_equal(result.returns[..., :SHOWN], result.optima[..., :SHOWN])
    # A model that learned nothing does not go on like that, from the very next episode on.
    assert result.returns[..., SHOWN].mean() < 0.8 * result.optima[..., SHOWN].mean()
    assert result.returns[..., SHOWN:].mean() < 0.8 * result.optima[..., SHOWN:].mean()
    assert result.steps_per_second > 0 and result.lengths is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_sees_what_was_demonstrated(kind, tiny_config, loud_model):
    """As in any roll-out: what is observed, the action before, its reward, where an episode begins."""
    config, model = cued(tiny_config, loud_model, kind)
    family, tasks, memories = task_family(config.env), config.evaluated_tasks, []

    def watched(model, batch):
        memories.append(Watched(new_memory(model, batch)))
        return memories[-1]

    result = roll_out(
        model, family, tasks, n_rollouts=3, n_episodes=EPISODES, seed=1000, demonstrated=SHOWN, memory=watched
    )
    env = family.environments(np.repeat(tasks, 3), rollout_keys(1000, tasks, 3))
    observed, actions = env.reset(), result.actions.reshape(-1, result.actions.shape[2])
    before = np.column_stack(
        [np.full(len(actions), family.spaces.n_actions), np.zeros(len(actions)), np.ones(len(actions))]
    )
    for t, seen in enumerate(memories[0].seen):
        np.testing.assert_array_equal(seen.numpy(), np.column_stack([observed, before]))
        if t < SHOWN * family.horizon:
            np.testing.assert_array_equal(actions[:, t], env.optimal_actions())
        outcome = env.advance(actions[:, t].astype(np.int64))
        observed = outcome.observed
        before = np.column_stack([actions[:, t], outcome.rewards, outcome.truncated])


def test_a_roll_out_does_not_depend_on_its_batch(tiny_config, loud_model):
    config, model = cued(tiny_config, loud_model)
    family = task_family(config.env)
    how = {"n_episodes": EPISODES, "seed": 1, "demonstrated": SHOWN}
    together = roll_out(model, family, family.task_ids[:4], n_rollouts=3, **how)
    single = roll_out(model, family, family.task_ids[2:3], n_rollouts=1, **how)
    np.testing.assert_array_equal(together.actions[2:3, :1], single.actions)
    np.testing.assert_array_equal(together.returns[2:3, :1], single.returns)
    # Nor on how many episodes follow; and one more demonstrated one changes none before it.
    more = roll_out(model, family, family.task_ids[2:3], n_rollouts=1, n_episodes=8, seed=1, demonstrated=4)
    np.testing.assert_array_equal(
        more.actions[..., : 3 * family.horizon], single.actions[..., : 3 * family.horizon]
    )


def test_each_roll_out_is_shown_its_own_episodes_where_they_end_early(tiny_config, loud_model):
    config = tiny_config().with_overrides(
        {"env.name": NAME, "env.n_heldout": 2, "env.n_validation": 1}, "test"
    )
    model, family = loud_model(config), task_family(config.env)
    result = roll_out(model, family, family.task_ids, n_rollouts=4, n_episodes=6, seed=1, demonstrated=SHOWN)
    assert (result.returns[..., :SHOWN] == 1).all() and (result.returns[..., SHOWN:] < 1).any()
    goals = family.goals(np.array(result.task_ids))
    shortest = np.minimum(goals[:, 0], family.config.n_places - goals[:, 0])
    assert (result.lengths[..., :SHOWN] == shortest[:, None, None]).all()
    # Where they are short, a roll-out acts itself while others are still shown theirs.
    fast = shortest == shortest.min()
    assert SHOWN * shortest.max() > 6 * shortest.min()
    assert (result.returns[fast, :, SHOWN:] < 1).any()


def test_a_demonstration_changes_no_later_draw(tiny_config, loud_model, monkeypatch):
    config, model = cued(tiny_config, loud_model)
    drawn = {}

    class Noted(ActionSampler):
        def choose(self, logits, step):
            action = super().choose(logits, step)
            drawn[shown].append(self._uniform[step % self._block].clone())
            return action

    monkeypatch.setattr(rollout, "ActionSampler", Noted)
    for shown in (0, SHOWN):
        drawn[shown] = []
        evaluate(
            model, config.with_overrides({"evaluation.demonstrated_episodes": shown}, "test"), StopFlag()
        )
    torch.testing.assert_close(torch.stack(drawn[0]), torch.stack(drawn[SHOWN]), rtol=0, atol=0)


def test_host_and_device_agree(tiny_config):
    """With a demonstration environments step on the host that would step from tables without one."""
    family = task_family(tiny_config(env=CUED).env)
    device = torch.device("cpu")
    rollouts = rollout.Rollouts(family, family.task_ids[:2], 2, 3, 1, device)
    kinds = [type(rollout.start_stepping(rollouts, shown)).__name__ for shown in (0, 1)]
    assert kinds == ["DeviceStepping", "HostStepping"]
    both = [rollout.start_stepping(rollouts, shown) for shown in (0, 1)]
    for _ in range(3 * family.horizon):
        optimal = both[1]._env.optimal_actions()
        assert torch.equal(both[0].observation.float(), both[1].observation.float())
        received = [worlds.step(torch.from_numpy(optimal)) for worlds in both]
        assert torch.equal(received[0].reward, received[1].reward)
        assert torch.equal(received[0].first, received[1].first)
    for what in ("returns", "optima", "facts", "lengths", "actions"):
        np.testing.assert_array_equal(getattr(both[0], what), getattr(both[1], what))
