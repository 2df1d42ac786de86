"""Roll-outs: what they record, what they depend on, how actions are drawn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cad.config import EvaluationConfig
from cad.envs.batched import BatchedEnv
from cad.envs.registry import env_config, task_family
from cad.evaluation.rollout import ActionSampler, roll_out
from cad.interrupt import InterruptedRun, StopFlag
from cad.models.registry import new_memory

N_ACTIONS = 5

CPU = torch.device("cpu")
FAMILIES = ["darkroom", "darkroom_permuted", "dark_key_to_door"]


class Recorder:
    """A memory that records its inputs: rows of [row, column, previous action, reward, first]."""

    def __init__(self, model, batch):
        self.inner = new_memory(model, batch)
        self.state_bytes = self.inner.state_bytes
        self.seen = []

    @property
    def compressions(self):
        return self.inner.compressions

    @property
    def chosen(self):
        return self.inner.chosen

    def observe(self, step):
        parts = [step.observation[:, 0], step.previous_action, step.previous_reward, step.first]
        self.seen.append(torch.cat(parts, dim=1).numpy())
        return self.inner.observe(step)


def recorded(model, family, tasks, **settings):
    """A roll-out and what its memory saw, (steps, tasks, roll-outs, 5)."""
    memories = []

    def memory(model, batch):
        memories.append(Recorder(model, batch))
        return memories[-1]

    settings = {"n_rollouts": 2, "n_episodes": 4, "seed": 0, **settings}
    result = roll_out(model, family, tasks, memory=memory, **settings)
    return result, np.stack(memories[0].seen).reshape(-1, len(tasks), settings["n_rollouts"], 5)


@pytest.fixture(params=["ad", "compressed_ad", "region_ad"])
def model(request, tiny_config, loud_model):
    return loud_model(tiny_config(request.param))


@pytest.fixture
def family(tiny_config):
    return task_family(tiny_config().env)


@pytest.mark.parametrize("name", FAMILIES)
def test_steps_and_returns_are_those_of_the_environment(name, model):
    family = task_family(env_config({"name": name, "size": 5, "horizon": 12}))
    # The goal is near the start or reached by chance often enough for a return above zero.
    tasks = {"darkroom": [12, 7, 24], "darkroom_permuted": [0, 119], "dark_key_to_door": [12 * 25 + 7, 305]}[
        name
    ]
    result, seen = recorded(model, family, tasks, n_rollouts=3, n_episodes=5)
    assert result.task_ids == tuple(tasks)
    assert result.returns.shape == (len(tasks), 3, 5)
    assert len(seen) == 5 * 12
    for i, task in enumerate(tasks):
        env = BatchedEnv(family, [task] * 3)
        for episode in range(5):
            rows = seen[episode * 12 : episode * 12 + 12, i]
            total, observation = np.zeros(3), env.reset()
            for t in range(12):
                np.testing.assert_array_equal(rows[t, :, :2], observation)
                assert (rows[t, :, 4] == (t == 0)).all()
                now = episode * 12 + t
                if now + 1 == len(seen):
                    break  # no later step shows the last action
                observation, reward, _ = env.step(seen[now + 1, i, :, 2])
                np.testing.assert_array_equal(seen[now + 1, i, :, 3], reward)
                total += reward
            else:
                np.testing.assert_array_equal(result.returns[i, :, episode], total)
    if name != "darkroom_permuted":
        assert result.returns.sum() > 0


def test_before_the_first_step_there_is_nothing_and_memory_goes_on_across_episodes(model, family):
    _, seen = recorded(model, family, [3, 9])
    assert (seen[0, :, :, 2] == N_ACTIONS).all()
    assert (seen[0, :, :, 3] == 0).all()
    assert (seen[1:, :, :, 2] < N_ACTIONS).all()


def test_a_roll_out_does_not_depend_on_what_else_is_in_the_batch(model, family):
    together, seen = recorded(model, family, [3, 9, 12, 20], n_rollouts=5, n_episodes=6)
    single, seen_single = recorded(model, family, [12], n_rollouts=2, n_episodes=6)
    np.testing.assert_array_equal(seen[:, 2:3, :2], seen_single)
    np.testing.assert_array_equal(together.returns[2:3, :2], single.returns)
    turned, _ = recorded(model, family, [20, 12, 9, 3], n_rollouts=5, n_episodes=6)
    np.testing.assert_array_equal(turned.returns[::-1], together.returns)
    longer, _ = recorded(model, family, [12], n_rollouts=2, n_episodes=9)
    np.testing.assert_array_equal(longer.returns[..., :6], single.returns)


def test_roll_outs_differ_from_each_other_and_with_the_seed(model, family):
    _, seen = recorded(model, family, [3, 9], n_rollouts=2)
    actions = seen[1:, :, :, 2].reshape(len(seen) - 1, -1)
    assert len(np.unique(actions, axis=1).T) == 4
    _, again = recorded(model, family, [3, 9], n_rollouts=2)
    np.testing.assert_array_equal(seen, again)
    _, other = recorded(model, family, [3, 9], n_rollouts=2, seed=1)
    assert (seen != other).any()


def test_greedy_takes_the_likeliest_action(model, family):
    result, seen = recorded(model, family, [3, 9], greedy=True)
    assert (seen[:, :, :1] == seen[:, :, 1:]).all()  # nothing is random
    _, other = recorded(model, family, [3, 9], greedy=True, seed=1)
    np.testing.assert_array_equal(seen, other)
    _, cold = recorded(model, family, [3, 9], temperature=1e-6)
    np.testing.assert_array_equal(seen, cold)
    assert result.returns.shape == (2, 2, 4)


def test_greedy_choice_is_the_argmax():
    sampler = ActionSampler([(0, 0), (0, 1)], seed=0, temperature=1.0, greedy=True, block=3, device=CPU)
    logits = torch.tensor([[0.0, 3.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.1]])
    assert sampler.choose(logits, 0).tolist() == [1, 4]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_sampled_actions_follow_the_softmax(temperature):
    n_rollouts, steps = 200, 150
    rollouts = [(7, rollout) for rollout in range(n_rollouts)]
    sampler = ActionSampler(rollouts, seed=0, temperature=temperature, greedy=False, block=steps, device=CPU)
    sampler.start_episodes(np.zeros(n_rollouts, dtype=np.int64))
    logits = torch.tensor([0.0, 1.0, -2.0, 0.5, 1.5])
    drawn = torch.stack([sampler.choose(logits.expand(n_rollouts, -1), t) for t in range(steps)])
    n = n_rollouts * steps
    share = torch.bincount(drawn.flatten(), minlength=5) / n
    expected = torch.softmax(logits / temperature, dim=-1)
    assert ((share - expected).abs() < 4 * (expected * (1 - expected) / n).sqrt()).all()
    # Later steps have other numbers.
    again = torch.stack([sampler.choose(logits.expand(n_rollouts, -1), steps + t) for t in range(steps)])
    assert (again != drawn).float().mean() > 0.3


def test_temperature_is_annealed_by_episode():
    evaluation = EvaluationConfig(first_temperature=1.2, temperature=0.8, anneal_episodes=5)
    actual = [evaluation.temperature_at(episode) for episode in range(7)]
    assert actual == pytest.approx([1.2, 1.1, 1.0, 0.9, 0.8, 0.8, 0.8])
    assert EvaluationConfig(temperature=0.7).temperature_at(30) == 0.7


def test_a_roll_out_goes_from_hot_to_cold(model, family):
    def temperature(episode: int) -> float:
        return 1.0 if episode < 2 else 1e-6

    _, seen = recorded(model, family, [3, 9], temperature=temperature)
    _, warm = recorded(model, family, [3, 9])
    _, again = recorded(model, family, [3, 9], temperature=temperature)
    np.testing.assert_array_equal(seen, again)
    hot = 2 * family.horizon
    np.testing.assert_array_equal(seen[:hot], warm[:hot])
    assert (seen[hot:] != warm[hot:]).any()


def test_actions_stay_in_range_whatever_the_rounding():
    sampler = ActionSampler(
        [(0, i) for i in range(50)], seed=0, temperature=1.0, greedy=False, block=200, device=CPU
    )
    for certain in range(5):
        logits = torch.full((50, 5), -200.0)
        logits[:, certain] = 200.0
        assert all((sampler.choose(logits, t) == certain).all() for t in range(200))


def test_compressions_are_counted(tiny_config, loud_model, family):
    model = loud_model(tiny_config())  # window 8, horizon 5
    result, _ = recorded(model, family, [3, 9], n_episodes=8)
    # 40 steps: compressed before steps 9, 17, 25 and 33.
    assert result.compressions.tolist() == [[4, 4], [4, 4]]
    ad, _ = recorded(loud_model(tiny_config("ad")), family, [3, 9], n_episodes=8)
    assert (ad.compressions == 0).all()


def test_progress_and_speed_are_reported(model, family):
    done = []
    result = roll_out(model, family, [3], n_rollouts=2, n_episodes=3, seed=0, progress=done.append)
    assert done == [1, 2, 3]
    assert result.horizon == 5
    assert result.steps_per_second == pytest.approx(2 * 3 * 5 / result.seconds)


def test_a_stop_ends_it_between_two_episodes(model, family):
    stop = StopFlag()

    def progress(done: int) -> None:
        if done == 2:
            stop.request()

    with pytest.raises(InterruptedRun, match="episode 2 of 5"):
        roll_out(model, family, [3], n_rollouts=1, n_episodes=5, seed=0, stop=stop, progress=progress)


def test_weights_and_mode_are_left_alone(model, family):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    result = roll_out(model, family, [3], n_rollouts=1, n_episodes=2, seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)  # training's random numbers are untouched
    assert not model.training
    assert {f.name for f in dataclasses.fields(result)} >= {"returns", "compressions", "state_bytes"}
