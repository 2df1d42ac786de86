"""One source agent: it learns one task from scratch while everything is recorded."""

from __future__ import annotations

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from cad.config import LearnerConfig, NoiseDistillationConfig, PPOConfig, SourceConfig
from cad.envs.family import AnyFamily
from cad.envs.transitions import Transitions
from cad.envs.vec_env import StreamVecEnv
from cad.errors import CadError
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
    elif isinstance(source, NoiseDistillationConfig):
        _demonstrate(family, streams, source, np.random.default_rng(seed))
    else:
        assert isinstance(source, PPOConfig)
        _learn_by_ppo(streams, source, seed)
    return streams.transitions()


def _learn_by_script(
    family: AnyFamily, streams: StreamVecEnv, source: LearnerConfig, rng: np.random.Generator
) -> None:
    learner = family.new_learner(source.learner, source.n_streams, source.epsilon, rng)
    while not streams.full:
        states = streams.states
        rewards, after = streams.advance(learner.act(states))
        learner.learn(states, rewards, after)


def _demonstrate(
    family: AnyFamily, streams: StreamVecEnv, source: NoiseDistillationConfig, rng: np.random.Generator
) -> None:
    """Optimal actions, of which ever fewer are replaced by random ones."""
    n, n_actions = source.n_streams, family.spaces.n_actions
    for step in range(source.steps_per_stream):
        random = rng.random(n) < 1 - step / (_NOISY_SHARE * source.steps_per_stream)
        streams.advance(np.where(random, rng.integers(0, n_actions, n), streams.optimal_actions()))


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
    try:
        ppo.learn(steps, callback=_StopWhenFull(streams), log_interval=None)  # type: ignore[arg-type]
    except ValueError as error:
        if not str(error).startswith("Expected parameter logits"):  # torch: they are not finite
            raise
        raise CadError(
            "the source agents diverged: their actions have no probabilities any more; lower "
            f"source.learning_rate (now {source.learning_rate:g})"
        ) from error
