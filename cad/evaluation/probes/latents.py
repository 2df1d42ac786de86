"""Latents, and the attention that they get, along recorded roll-outs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cad.evaluation.probes.attention import latent_shares
from cad.evaluation.probes.ridge import FloatArray
from cad.evaluation.replay import Trajectories
from cad.histories.batch import Steps
from cad.models.compressed_ad.network import CompressedAD

_ATTENTION_BATCH = 64  # roll-outs whose attention is in memory at a time


def as_steps(trajectories: Trajectories) -> Steps:
    """What a model saw in roll-outs: fields (B, T)."""
    actions = torch.from_numpy(trajectories.actions.astype(np.int64))
    rewards = torch.from_numpy(trajectories.rewards)
    previous_action, previous_reward = actions.roll(1, dims=1), rewards.roll(1, dims=1)
    previous_action[:, 0], previous_reward[:, 0] = trajectories.family.spaces.n_actions, 0
    first = (torch.arange(actions.shape[1]) % trajectories.family.horizon == 0).long()
    states = torch.from_numpy(trajectories.states)
    return Steps(states, previous_action, previous_reward, first.expand_as(actions))


def latents_after(model: CompressedAD, steps: Steps, counts: Sequence[int]) -> FloatArray:
    """All latents of each roll-out after each of ``counts`` (rising) compressions: (counts, B, d)."""
    kept, latents = [], model.initial_latents(len(steps.first))
    for k in range(counts[-1]):
        latents = model.encoder(latents, model.embed(_window(model, steps, k)))
        if k + 1 in counts:
            kept.append(latents.flatten(1))
    return torch.stack(kept).double().cpu().numpy()


def attention_after(model: CompressedAD, steps: Steps, counts: Sequence[int]) -> Tensor:
    """Mean share of attention on the latents after 0 and ``counts`` compressions: (layers, 1 + counts)."""
    latents = model.initial_latents(len(steps.first))
    means = []
    for k in range(counts[-1] + 1):
        window = model.embed(_window(model, steps, k))
        if k == 0 or k in counts:
            parts = [
                latent_shares(model, window[i : i + _ATTENTION_BATCH], latents[i : i + _ATTENTION_BATCH])
                for i in range(0, len(window), _ATTENTION_BATCH)
            ]
            means.append(torch.cat([part.mean(dim=(2, 3)) for part in parts], dim=1).double().mean(dim=1))
        latents = model.encoder(latents, window)
    return torch.stack(means, dim=1).cpu()


def _window(model: CompressedAD, steps: Steps, k: int) -> Steps:
    """The ``k``-th window that a roll-out fills."""
    length = model.config.compress_lengths[1]
    part = slice(k * length, (k + 1) * length)
    return Steps(
        steps.observation[:, part],
        steps.previous_action[:, part],
        steps.previous_reward[:, part],
        steps.first[:, part],
    )
