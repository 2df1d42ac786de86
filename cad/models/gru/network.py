"""Gated recurrent units (Cho et al., arXiv:1406.1078, section 2.3) in a transformer's blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cad.envs.family import Spaces
from cad.models.blocks.recurrent.network import RecurrentLayer, RecurrentModel
from cad.models.gru.config import GRUConfig


class GRULayer(RecurrentLayer):
    """``n_hidden`` gated units, projected back to the model's width; the state is (B, n_hidden)."""

    def __init__(self, config: GRUConfig) -> None:
        super().__init__()
        self._longest = config.n_unroll
        self.units = nn.GRU(config.n_embd, config.hidden_width, batch_first=True)
        self.out = nn.Linear(config.hidden_width, config.n_embd)

    def new_state(self, batch: int) -> Tensor:
        """See :meth:`RecurrentLayer.new_state`."""
        return self.out.weight.new_zeros(batch, self.units.hidden_size)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`RecurrentLayer.forward`."""
        hidden, after = self.units(x, state[None].contiguous())
        return self.out(hidden), after[0]

    def initialise(self) -> None:
        """Orthogonal recurrent matrices, and units that forget over 2 to ``n_unroll`` steps.

        The latter by the biases of the update gates (chrono initialisation, Tallec and Ollivier,
        arXiv:1804.11188, section 2), without which nothing is kept over several episodes at first.
        """
        weights = dict(self.units.named_parameters())
        with torch.no_grad():
            for matrix in weights["weight_hh_l0"].chunk(3):
                nn.init.orthogonal_(matrix)
            for matrix in weights["weight_ih_l0"].chunk(3):
                nn.init.xavier_uniform_(matrix)
            weights["bias_ih_l0"].zero_()
            weights["bias_hh_l0"].zero_()
            # torch's update gate z keeps the old state: h' = (1 - z) n + z h.
            steps = torch.empty(self.units.hidden_size).uniform_(1, max(2, self._longest - 1))
            weights["bias_hh_l0"].chunk(3)[1].copy_(steps.log())


class GRUModel(RecurrentModel):
    """Algorithm distillation into a recurrent net, as RL² trains one (arXiv:1611.02779)."""

    def __init__(self, config: GRUConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces, [GRULayer(config) for _ in range(config.n_layer)])
