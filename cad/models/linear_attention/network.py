"""Linear attention with a gated delta rule (Gated DeltaNet, arXiv:2412.06464, sections 3.1 and 3.4).

Gates and norms of outputs as in gated linear attention (arXiv:2312.06635, section 4.4).  There is no short
convolution: a step's token already holds the action and the reward that led to it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cad.envs.family import Spaces
from cad.models.blocks.recurrent.network import RecurrentLayer, RecurrentModel
from cad.models.linear_attention.config import LinearAttentionConfig
from cad.models.linear_attention.delta_rule import delta_rule

# Steps over which a fresh head's state decays by half: that of the first and that of the last head.
_HALF_LIVES = (16.0, 1024.0)


class LinearAttention(RecurrentLayer):
    """Heads with a state matrix each; the state is (B, n_head, head width, head width)."""

    def __init__(self, config: LinearAttentionConfig) -> None:
        super().__init__()
        self.n_head, self.width = config.n_head, config.key_width
        self.qkv = nn.Linear(config.n_embd, 3 * self.n_head * self.width, bias=False)
        self.gates = nn.Linear(config.n_embd, 2 * self.n_head)  # of decay and of writing
        self.rate = nn.Parameter(torch.zeros(self.n_head))  # log of a head's decay a step
        self.norm = nn.RMSNorm(self.width, eps=1e-5)
        self.output_gate = nn.Linear(config.n_embd, self.n_head * self.width)
        self.out = nn.Linear(self.n_head * self.width, config.n_embd)

    def new_state(self, batch: int) -> Tensor:
        """See :meth:`RecurrentLayer.new_state`."""
        return self.rate.new_zeros(batch, self.n_head, self.width, self.width)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`RecurrentLayer.forward`."""
        B, T, _ = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_head, self.width).permute(2, 0, 3, 1, 4)
        decay, strength = self.gates(x).view(B, T, 2, self.n_head).permute(2, 0, 3, 1)
        # The recurrence is in float32 whatever the rest is in: errors would add up over a history.
        with torch.autocast(x.device.type, enabled=False):
            q, k = F.normalize(q.float(), dim=-1), F.normalize(k.float(), dim=-1)
            log_decay = -self.rate.float().exp()[:, None] * F.softplus(decay.float())
            y, state = delta_rule(q, k, v.float(), log_decay, strength.float().sigmoid(), state)
        y = self.norm(y.transpose(1, 2)).reshape(B, T, -1)
        return self.out(y * F.silu(self.output_gate(x))), state

    def initialise(self) -> None:
        """Half-lives spread evenly, in logarithms, over the heads."""
        with torch.no_grad():
            # A gate of zero decays by 2^-rate a step.
            first, last = torch.tensor(_HALF_LIVES).log().neg()
            self.rate.copy_(first + (last - first) * torch.linspace(0, 1, self.n_head))


class LinearAttentionModel(RecurrentModel):
    """Algorithm distillation into linear attention."""

    def __init__(self, config: LinearAttentionConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces, [LinearAttention(config) for _ in range(config.n_layer)])
