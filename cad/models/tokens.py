"""Step tokens: one token a step, its fields embedded apart and added up.

Token t holds the state at t, the action and the reward of step t-1 and whether t begins an
episode; the model predicts action t from it.  Row and column have embeddings of their own: with
one embedding a *cell* the model memorises the training goals (DESIGN.md, decision 1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cad.config.schema import N_ACTIONS
from cad.histories.batch import Steps


class StepEmbedding(nn.Module):
    """Sum of row, column, previous action, previous reward and first-step embeddings, then a norm.

    All fields share one table, so that a step costs one fused look-up-and-sum.
    """

    def __init__(self, grid_size: int, n_embd: int, cells: bool = False, norm: bool = True) -> None:
        """``cells``: one embedding a cell instead of row and column; without ``norm`` the sum as it is."""
        super().__init__()
        self._grid_size = grid_size if cells else None
        place = [grid_size**2] if cells else [grid_size, grid_size]
        widths = torch.tensor([*place, N_ACTIONS + 1, 2, 2])
        offsets = torch.cumsum(widths, 0) - widths
        self.register_buffer("offsets", offsets, persistent=False)
        self.offsets: Tensor
        self.table = nn.EmbeddingBag(int(widths.sum()), n_embd, mode="sum")
        self.norm = nn.LayerNorm(n_embd) if norm else nn.Identity()

    def forward(self, steps: Steps) -> Tensor:
        """Embed steps: (B, T) fields to (B, T, n_embd)."""
        B, T = steps.first.shape
        place = steps.observation
        if self._grid_size is not None:
            place = place[..., :1] * self._grid_size + place[..., 1:]
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
