"""One source agent: it learns one task from scratch while everything is recorded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import stable_baselines3
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from cad.config import LearnerConfig, NoiseDistillationConfig, PPOConfig, SB3Config, SourceConfig
from cad.envs.draws import TaskDraws
from cad.envs.family import AnyFamily
from cad.envs.transitions import Transitions
from cad.envs.vec_env import StreamVecEnv
from cad.errors import CadError, UsageError, first_line
from cad.histories.streams import stream_keys

# Share of a stream after which a demonstrator acts without noise.
_NOISY_SHARE = 0.9


class _StopWhenFull(BaseCallback):
    """Ends learning with the last recorded step: no update whose effect nobody would see."""

    def __init__(self, streams: StreamVecEnv) -> None:
        super().__init__()
        self._streams = streams

    def _on_step(self) -> bool:
        return not self._streams.full


def task_seed(source_seed: int, task_id: int) -> int:
    """Seed of a task's PPO, 32 bits; it depends on the task's canonical id, not on its place in a run."""
    return int(np.random.SeedSequence((source_seed, task_id)).generate_state(1)[0])


def learn(family: AnyFamily, task_id: int, source: SourceConfig) -> Transitions:
    """:func:`learn_tasks` for one task."""
    return learn_tasks(family, [task_id], source)[0]


def learn_tasks(family: AnyFamily, task_ids: Sequence[int], source: SourceConfig) -> list[Transitions]:
    """Let the source agents learn tasks and return all of their streams' transitions, task by task.

    What a task's histories are does not depend on the others: scripted agents of several tasks step
    together, which is many times faster, and draw from a generator a task; PPO agents learn one task after
    the other.  Sets the process's global random generators (stable-baselines3 does); meant for a process of
    its own.  With one torch thread the same arguments give the same bits.
    """
    if isinstance(source, PPOConfig):
        return [_learn_by_ppo(_streams(family, [task], source), source, task) for task in task_ids]
    if isinstance(source, SB3Config):
        return [_learn_by_sb3(_streams(family, [task], source), source, task) for task in task_ids]
    streams = _streams(family, task_ids, source)
    generators = [np.random.default_rng(task_seed(source.seed, task)) for task in task_ids]
    draws = TaskDraws(generators, source.n_streams)
    if isinstance(source, LearnerConfig):
        _learn_by_script(family, streams, source, draws)
    else:
        assert isinstance(source, NoiseDistillationConfig)
        _demonstrate(family, streams, source, draws)
    return streams.transitions().split(len(task_ids))


def _streams(family: AnyFamily, task_ids: Sequence[int], source: SourceConfig) -> StreamVecEnv:
    return StreamVecEnv(
        family,
        np.repeat(np.asarray(task_ids), source.n_streams),
        source.steps_per_stream,
        np.concatenate([stream_keys(source, task) for task in task_ids]),
        source.loads,
    )


def _learn_by_script(
    family: AnyFamily, streams: StreamVecEnv, source: LearnerConfig, draws: TaskDraws
) -> None:
    learner = family.new_learner(source.learner, streams.num_envs, source.epsilon, draws)
    while not streams.full:
        states = streams.states
        rewards, after = streams.advance(learner.act(states))
        learner.learn(states, rewards, after)


def _demonstrate(
    family: AnyFamily, streams: StreamVecEnv, source: NoiseDistillationConfig, draws: TaskDraws
) -> None:
    """Optimal actions, of which ever fewer are replaced by random ones."""
    n, n_actions = streams.num_envs, family.spaces.n_actions
    for step in range(source.steps_per_stream):
        random = draws.random(n) < 1 - step / (_NOISY_SHARE * source.steps_per_stream)
        streams.advance(np.where(random, draws.integers(0, n_actions, n), streams.optimal_actions()))


def _learn_by_ppo(streams: StreamVecEnv, source: PPOConfig, task_id: int) -> Transitions:
    """stable-baselines3's PPO, all streams of a task in one vectorised environment."""
    env: VecEnv = streams
    ppo = PPO(
        "MlpPolicy",
        env,
        learning_rate=source.learning_rate,
        n_steps=source.n_steps,
        batch_size=source.batch_size,
        n_epochs=source.n_epochs,
        gamma=source.gamma,
        gae_lambda=source.gae_lambda,
        clip_range=source.clip_range,
        ent_coef=source.ent_coef,
        policy_kwargs={
            "net_arch": [source.hidden, source.hidden],
            # ReLU and the fused Adam cost half of tanh and the plain one, at equal returns.
            "activation_fn": torch.nn.ReLU,
            "optimizer_kwargs": {"eps": 1e-5, "fused": True},
        },
        seed=task_seed(source.seed, task_id),
        device="cpu",
        verbose=0,
    )
    # One roll-out more than asked for: the callback ends learning, not the count.
    steps = source.n_streams * (source.steps_per_stream + source.n_steps)
    return _learned(ppo, streams, steps, f"source.learning_rate (now {source.learning_rate:g})")


def _learn_by_sb3(streams: StreamVecEnv, source: SB3Config, task_id: int) -> Transitions:
    """An algorithm of stable-baselines3 by its name, all streams of a task in one vectorised environment."""
    kind = getattr(stable_baselines3, source.algorithm, None)
    if not (isinstance(kind, type) and issubclass(kind, BaseAlgorithm)):
        raise UsageError(
            f"source.algorithm={source.algorithm}: stable-baselines3 has no such algorithm; A2C, DQN and PPO "
            "take discrete actions"
        )
    try:
        agent = kind(
            "MlpPolicy", streams, seed=task_seed(source.seed, task_id), device="cpu", verbose=0,
            **source.arguments,
        )  # fmt: skip
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError(f"source.arguments: {source.algorithm} refuses them: {first_line(error)}") from error
    # As many as are kept: schedules such as DQN's exploration are shares of it.
    steps = source.n_streams * source.steps_per_stream
    return _learned(agent, streams, steps, "source.arguments.learning_rate")


def _learned(agent: BaseAlgorithm, streams: StreamVecEnv, steps: int, rate: str) -> Transitions:
    """What the streams recorded while ``agent`` learned for ``steps``; ``rate`` is what to lower."""
    # Its own default logger leaves an empty folder in the temporary one, for each task.
    agent.set_logger(Logger(folder=None, output_formats=[]))
    try:
        agent.learn(steps, callback=_StopWhenFull(streams), log_interval=None)  # type: ignore[arg-type]
    except ValueError as error:
        if not str(error).startswith("Expected parameter logits"):  # torch: they are not finite
            raise
        raise CadError(
            f"the source agents diverged: their actions have no probabilities any more; lower {rate}"
        ) from error
    return streams.transitions()
