"""The encoder that compresses steps into latents, again and again."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cad.models.blocks.transformer import Blocks, input_norm
from cad.models.config import LatentModelConfig


class Encoder(nn.Module):
    """[old latents | steps | learned queries] to ``n_latent`` new latents, all seeing all.

    With ``gated`` a latent is not replaced but mixed with what it was, number by number: a gate, a linear
    function of both, says how much stays (block-recurrent transformers, arXiv:2203.07852, section 3.2).
    """

    _STAYS = 1.0
    """What a gate's logit begins with: about three quarters stay, so that gradients reach old steps."""

    def __init__(self, config: LatentModelConfig, *, gated: bool = False) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(config.n_latent, config.n_embd))
        self.positions = nn.Parameter(torch.zeros(config.n_latent + config.n_transit, config.n_embd))
        self.input_norm = input_norm(config)
        self.blocks = Blocks(config, config.encoder_n_layer)
        self.output_norm = nn.LayerNorm(config.n_embd)
        self.gate = nn.Linear(2 * config.n_embd, config.n_embd) if gated else None

    def forward(self, latents: Tensor, steps: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, n_latent, n_embd), (B, T, n_embd) to (B, n_latent, n_embd).

        ``valid`` (T,) bool is False for steps that are not there, at the end; None: all are.
        """
        n = latents.shape[1]
        context = torch.cat([latents, steps], dim=1)
        context = context + self.positions[: context.shape[1]]
        queries = self.queries.expand(context.shape[0], -1, -1)
        x = self.input_norm(torch.cat([context, queries], dim=1))
        mask = None
        if valid is not None:
            mask = F.pad(valid, (n, n), value=True).expand(x.shape[1], -1)
        return self._mix(latents, self.output_norm(self.blocks(x, mask, n)))

    def _mix(self, old: Tensor, new: Tensor) -> Tensor:
        """What becomes of latents ``old`` (B, n, n_embd), which were compressed into ``new``."""
        if self.gate is None:
            return new
        stays = torch.sigmoid(self.gate(torch.cat([old, new], dim=-1)) + self._STAYS)
        return new + stays * (old - new)
