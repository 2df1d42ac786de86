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


class StepEmbedding(nn.Module):
    """Sum of the embeddings of a step's fields, then a norm.

    The fields are those of the observation, previous action, previous reward and first step.

    They share one table, so that a step costs one fused look-up-and-sum.
    """

    def __init__(self, spaces: Spaces, n_embd: int, cells: bool = False, norm: bool = True) -> None:
        """``cells``: one embedding for each whole observation; without ``norm`` the sum as it is."""
        super().__init__()
        place = [spaces.n_observations] if cells else [*spaces.field_sizes]
        widths = torch.tensor([*place, spaces.n_actions + 1, spaces.n_rewards, 2])
        self._cells = cells
        self.register_buffer("strides", torch.tensor(spaces.strides), persistent=False)
        self.strides: Tensor
        offsets = torch.cumsum(widths, 0) - widths
        self.register_buffer("offsets", offsets, persistent=False)
        self.offsets: Tensor
        self.table = nn.EmbeddingBag(int(widths.sum()), n_embd, mode="sum")
        self.norm = nn.LayerNorm(n_embd) if norm else nn.Identity()

    def forward(self, steps: Steps) -> Tensor:
        """Embed steps: (B, T) fields to (B, T, n_embd)."""
        B, T = steps.first.shape
        place = steps.observation
        if self._cells:
            place = (place * self.strides).sum(dim=-1, keepdim=True)
        fields = torch.cat(
            [
                place,
                torch.stack([steps.previous_action, steps.previous_reward, steps.first], dim=-1),
            ],
            dim=-1,
        )
        indices = fields + self.offsets
        summed: Tensor = self.table(indices.view(B * T, -1))
        normed: Tensor = self.norm(summed)
        return normed.view(B, T, -1)
