"""Step tokens: one token a step, its fields embedded apart and added up.

Token t holds the state at t, the action and the reward of step t-1 and whether t begins an
episode; the model predicts action t from it.  Each field of an observation has embeddings of its
own: with one embedding a *cell* of a grid the model memorises the training goals
(experiments/ingredients.yaml measures it).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cad.envs.family import Spaces
from cad.histories.batch import Steps
from cad.models.blocks.transformer import plain_norm

# Floats of an observation are cut at so many standard deviations: unseen tasks may go further.
_FURTHEST = 10.0


class StepEmbedding(nn.Module):
    """Sum of the embeddings of a step's fields, then a norm.

    The fields are those of the observation, previous action, previous reward and first step.

    They share one table, so that a step costs one fused look-up-and-sum.  Floats of the observation are
    normalised by :meth:`normalise_by`'s statistics, which are kept with the weights, and a reward that is a
    float is put on a logarithmic scale, sign(r) log(1 + |r|) (symlog, arXiv:2301.04104); both enter through
    a linear layer.
    """

    def __init__(self, spaces: Spaces, n_embd: int, cells: bool = False, norm: bool = True) -> None:
        """``cells``: one embedding for each whole observation; without ``norm`` the sum as it is."""
        super().__init__()
        place = [spaces.n_observations] if cells else [*spaces.field_sizes]
        rewards = [spaces.n_rewards] if spaces.n_rewards else []
        widths = torch.tensor([*place, spaces.n_actions + 1, *rewards, 2])
        self._cells, self._n_fields = cells, spaces.n_fields
        self.register_buffer("strides", torch.tensor(spaces.strides), persistent=False)
        self.strides: Tensor
        offsets = torch.cumsum(widths, 0) - widths
        self.register_buffer("offsets", offsets, persistent=False)
        self.offsets: Tensor
        self.table = nn.EmbeddingBag(int(widths.sum()), n_embd, mode="sum")
        self.norm = nn.LayerNorm(n_embd) if norm else nn.Identity()
        self.reals: nn.Linear | None = None
        self.reward: nn.Linear | None = None
        if spaces.n_reals:
            self.reals = nn.Linear(spaces.n_reals, n_embd)
            self.register_buffer("real_mean", torch.zeros(spaces.n_reals))
            self.register_buffer("real_deviation", torch.ones(spaces.n_reals))
        self.real_mean: Tensor
        self.real_deviation: Tensor
        if not spaces.n_rewards:
            self.reward = nn.Linear(1, n_embd, bias=False)

    def normalise_by(self, mean: Tensor, deviation: Tensor) -> None:
        """Take the mean and standard deviation of each float of an observation, (floats,)."""
        self.real_mean.copy_(mean)
        self.real_deviation.copy_(deviation)

    def forward(self, steps: Steps) -> Tensor:
        """Embed steps: (B, T) fields to (B, T, n_embd)."""
        B, T = steps.first.shape
        if T == 1 and not self.training and self.reals is None and self.reward is None and not self._cells:
            return self._single(steps)
        place = steps.observation
        if self.reals is not None:
            place = place[..., : self._n_fields].long()
        if self._cells:
            place = (place * self.strides).sum(dim=-1, keepdim=True)
        numbers = [steps.previous_action, steps.previous_reward, steps.first]
        if self.reward is not None:
            del numbers[1]
        fields = torch.cat([place, torch.stack(numbers, dim=-1)], dim=-1)
        indices = fields + self.offsets
        summed: Tensor = self.table(indices.view(B * T, -1))
        if self.reals is not None:
            floats = (steps.observation[..., self._n_fields :] - self.real_mean) / self.real_deviation
            summed = summed + self.reals(floats.clamp(-_FURTHEST, _FURTHEST)).view(B * T, -1)
        if self.reward is not None:
            reward = steps.previous_reward[..., None]
            summed = summed + self.reward(reward.sign() * reward.abs().log1p()).view(B * T, -1)
        normed: Tensor = self.norm(summed)
        return normed.view(B, T, -1)

    def _single(self, steps: Steps) -> Tensor:
        """Embed one step each, of whole numbers: as :meth:`forward`, without calls of modules."""
        numbers = (steps.observation[:, 0], steps.previous_action, steps.previous_reward, steps.first)
        indices = torch.cat(numbers, dim=1) + self.offsets
        B, n = indices.shape
        bags = torch.arange(0, B * n, n, device=indices.device)
        summed = torch.embedding_bag(self.table.weight, indices.view(-1), bags, False, 0)[0]
        return plain_norm(self.norm)(summed)[:, None]
