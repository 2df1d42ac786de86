"""Replace what a model has compressed, once in a roll-out, to see what it uses it for.

Steps that the model still keeps uncompressed stay its own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cad.config import EvaluationConfig
from cad.evaluation.rollout import BeforeEpisodes
from cad.models.memory import Memory

# Separates these random numbers from other uses of the same seed.
_STREAM = 0x0C


def knock_out(settings: EvaluationConfig, n_rollouts: int) -> BeforeEpisodes | None:
    """What :func:`~cad.evaluation.rollout.roll_out` calls before episodes; None where nothing is to do.

    The batch has ``n_rollouts`` roll-outs a task, next to each other.
    """
    if settings.knock_out is None:
        return None

    def before_episodes(
        episode: npt.NDArray[np.int64], begins: npt.NDArray[np.bool_], memory: Memory
    ) -> None:
        now = begins & (episode == settings.knock_out_episode - 1)
        if not now.any():
            return
        own = memory.compressed
        assert own is not None  # the config's rules see to it
        if settings.knock_out == "other":
            other = own.roll(n_rollouts, dims=0)
        else:
            other = _noise_like(own, settings.seed)
        rows = torch.from_numpy(now).to(own.device).view(-1, *[1] * (own.dim() - 1))
        memory.compressed = torch.where(rows, other, own)

    return before_episodes


def _noise_like(own: Tensor, seed: int) -> Tensor:
    """Normal noise with the mean and the spread that each number has over the batch."""
    drawn = np.random.default_rng([seed, _STREAM]).standard_normal(own.shape, dtype=np.float32)
    noise = torch.from_numpy(drawn).to(own)
    return own.mean(dim=0) + own.std(dim=0, correction=0) * noise
