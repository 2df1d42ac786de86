"""What is random in the streams of a task: derived from the source's seed, as an audit does again."""

from __future__ import annotations

import numpy as np

from cad.config import SourceConfig
from cad.envs.arrays import IntArray, NoiseArray
from cad.envs.batched import FactDraws, step_noise
from cad.envs.family import AnyFamily
from cad.envs.noise import Keys, noise_keys


def stream_keys(source: SourceConfig, task_id: int) -> Keys:
    """Keys of a task's environments: what is random in each stream."""
    streams = np.arange(source.n_streams)
    return noise_keys("history", source.seed, np.full_like(streams, task_id), streams)


def episode_facts(family: AnyFamily, task_id: int, source: SourceConfig, episodes: int) -> IntArray:
    """The fact that each episode of a task's histories needs, (streams, episodes)."""
    draws = FactDraws(family.n_facts, stream_keys(source, task_id), source.loads)
    return np.stack([draws.draw(episode) for episode in range(episodes)], axis=1)


def stream_noise(task_id: int, source: SourceConfig) -> NoiseArray:
    """What chance decided at each step of a task's histories, (streams, steps)."""
    return step_noise(stream_keys(source, task_id)[:, None], np.arange(source.steps_per_stream))
