"""One source agent: it learns one task from scratch while everything is recorded."""

from __future__ import annotations

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from cad.config import LearnerConfig, PPOConfig, SourceConfig
from cad.envs.family import AnyFamily
from cad.envs.transitions import Transitions
from cad.envs.vec_env import StreamVecEnv
from cad.histories.streams import stream_keys


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
    """Let the source agents learn ``task_id`` and return all of their streams' transitions.

    Sets the process's global random generators (stable-baselines3 does); meant for a process of
    its own.  With one torch thread the same arguments give the same bits.
    """
    streams = StreamVecEnv(
        family,
        np.full(source.n_streams, task_id),
        source.steps_per_stream,
        stream_keys(source, task_id),
        source.loads,
    )
    seed = task_seed(source.seed, task_id)
    if isinstance(source, LearnerConfig):
        _learn_by_script(family, streams, source, np.random.default_rng(seed))
    else:
        assert isinstance(source, PPOConfig)
        _learn_by_ppo(streams, source, seed)
    return streams.transitions()


def _learn_by_script(
    family: AnyFamily, streams: StreamVecEnv, source: LearnerConfig, rng: np.random.Generator
) -> None:
    assert family.scripted_learner is not None  # the config's rules see to it
    learner = family.scripted_learner(family, source.n_streams, source.epsilon, rng)
    while not streams.full:
        states = streams.states
        rewards, after = streams.advance(learner.act(states))
        learner.learn(states, rewards, after)


def _learn_by_ppo(streams: StreamVecEnv, source: PPOConfig, seed: int) -> None:
    """stable-baselines3's PPO, all streams in one vectorised environment."""
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
        seed=seed,
        device="cpu",
        verbose=0,
    )
    # Its own default logger leaves an empty folder in the temporary one, for each task.
    ppo.set_logger(Logger(folder=None, output_formats=[]))
    # One roll-out more than asked for: the callback ends learning, not the count.
    steps = source.n_streams * (source.steps_per_stream + source.n_steps)
    ppo.learn(steps, callback=_StopWhenFull(streams), log_interval=None)  # type: ignore[arg-type]
