"""The encoder that compresses steps into latents, again and again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cad.models.blocks.transformer import Blocks, input_norm
from cad.models.config import LatentModelConfig


class Encoder(nn.Module):
    """[old latents | steps | learned queries] to ``n_latent`` new latents, all seeing all.

    With ``groups``, sizes that add up to ``n_latent``, the latents are groups of different age, the newest
    first.  New steps are compressed into the first group; each of the others takes over the content of the
    group before it, as it is where both have one size and compressed where not; the last one folds it into
    its own.  One group is overwritten every time (the default).  Several of one size accumulate summaries, as
    AutoCompressors do (arXiv:2305.14788, section 3); shrinking ones keep older history at lower resolution,
    as Compressive Transformers do (arXiv:1911.05507, section 3).

    With ``kept_steps`` the last ones of the latents are no summaries but steps as they are, in their order:
    those with the highest score, a linear function of a step that is learned, among the steps kept so far and
    the new ones.

    With ``gated`` a latent is not replaced but mixed with what it was, number by number: a gate, a linear
    function of both, says how much stays (block-recurrent transformers, arXiv:2203.07852, section 3.2).  What
    a group passes on or folds in is mixed in the last one alone.
    """

    _STAYS = 1.0
    """What a gate's logit begins with: about three quarters stay, so that gradients reach old steps."""

    def __init__(
        self,
        config: LatentModelConfig,
        groups: Sequence[int] | None = None,
        kept_steps: int = 0,
        *,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.groups = list(groups or (config.n_latent - kept_steps,))
        self.kept_steps = kept_steps
        if kept_steps:
            self.score = nn.Linear(config.n_embd, 1)
        self.queries = nn.Parameter(torch.zeros(config.n_latent - kept_steps, config.n_embd))
        self.positions = nn.Parameter(torch.zeros(config.n_latent + config.n_transit, config.n_embd))
        self.input_norm = input_norm(config)
        self.blocks = Blocks(config, config.encoder_n_layer)
        self.output_norm = nn.LayerNorm(config.n_embd)
        self.gate = nn.Linear(2 * config.n_embd, config.n_embd) if gated else None

    def forward(self, latents: Tensor, steps: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, n_latent, n_embd), (B, T, n_embd) to (B, n_latent, n_embd).

        ``valid`` (T,) bool is False for steps that are not there, at the end; None: all are.
        """
        context = torch.cat([latents, steps], dim=1)
        context = context + self.positions[: context.shape[1]]
        queries = torch.split(self.queries, self.groups)
        if valid is not None:
            valid = F.pad(valid, (latents.shape[1], 0), value=True)
        new = self._compress(context, queries[0], valid)
        if self.kept_steps:
            first = self.groups[0]
            steps = torch.cat([latents[:, first:], steps], dim=1)
            kept = self._keep(steps, None if valid is None else valid[first:])
            return torch.cat([self._mix(latents[:, :first], new), kept], dim=1)
        if len(self.groups) == 1:
            return self._mix(latents, new)
        # Latents as they are and with their positions, by group.
        old = torch.split(latents, self.groups, dim=1)
        placed = torch.split(context, [*self.groups, steps.shape[1]], dim=1)
        moved = [
            old[k - 1] if self.groups[k - 1] == self.groups[k] else self._compress(placed[k - 1], queries[k])
            for k in range(1, len(self.groups) - 1)
        ]
        oldest = self._compress(torch.cat(placed[-3:-1], dim=1), queries[-1])
        return torch.cat([new, *moved, self._mix(old[-1], oldest)], dim=1)

    def _mix(self, old: Tensor, new: Tensor) -> Tensor:
        """What becomes of latents ``old`` (B, n, n_embd), which were compressed into ``new``."""
        if self.gate is None:
            return new
        stays = torch.sigmoid(self.gate(torch.cat([old, new], dim=-1)) + self._STAYS)
        return new + stays * (old - new)

    def _keep(self, steps: Tensor, valid: Tensor | None) -> Tensor:
        """Those of ``steps`` (B, T, n_embd) that score highest, in their order: (B, kept_steps, n_embd).

        Of steps that are all alike the last one counts: the others would tell nothing that it does not.
        """
        scores = self.score(steps)
        alike = (steps[:, :, None] == steps[:, None]).all(dim=-1)
        if valid is not None:
            alike = alike & valid
        repeated = alike.triu(diagonal=1).any(dim=2)
        if valid is not None:
            repeated = repeated | ~valid
        ranks = scores[..., 0].masked_fill(repeated, -torch.inf)
        order = ranks.argsort(dim=1, descending=True, stable=True)
        chosen = order[:, : self.kept_steps].sort(dim=1).values[..., None]
        # As they are, and yet the scores get a gradient: that of scaling a step by its score's sigmoid.
        marks = scores.sigmoid()
        scaled = steps + steps * (marks - marks.detach())
        kept: Tensor = scaled.gather(1, chosen.expand(-1, -1, steps.shape[2]))
        return kept

    def _compress(self, context: Tensor, queries: Tensor, valid: Tensor | None = None) -> Tensor:
        """What ``queries`` (n, n_embd) make of ``context`` (B, T, n_embd), where it is ``valid`` (T,).

        Returns (B, n, n_embd).
        """
        queries = queries.expand(context.shape[0], -1, -1)
        x = self.input_norm(torch.cat([context, queries], dim=1))
        mask = None
        if valid is not None:
            mask = F.pad(valid, (0, queries.shape[1]), value=True).expand(x.shape[1], -1)
        compressed: Tensor = self.output_norm(self.blocks(x, mask, queries.shape[1]))
        return compressed
