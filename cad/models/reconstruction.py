"""Reconstruction: a small decoder that says from latents alone what was folded into them.

It teaches the encoder to remember, before action training (:class:`EncoderPretraining`) or beside
it (:class:`WithReconstruction`), and is thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cad.config.schema import N_ACTIONS, Config
from cad.histories.batch import Batch
from cad.models.compressed_ad import CompressedAD, Compressor
from cad.models.transformer import Blocks, initialise


def field_widths(grid_size: int) -> dict[str, int]:
    """The fields of a step's token that are reconstructed, and how many values each takes.

    ``action`` and ``reward`` are those that the token holds: of the step before.
    """
    return {"row": grid_size, "column": grid_size, "action": N_ACTIONS + 1, "reward": 2}


class Reconstruction(NamedTuple):
    """What was said of the compressed steps, depth by depth (a tuple: engines look for tensors in it).

    ``outputs[k - 1]`` is (B, k * L, outputs): after k compressions, all steps of segments 1..k in
    their order.  ``latents`` is (B, depths, n_latent, n_embd); ``embedded`` (B, depths * L, n_embd),
    without gradient.
    """

    outputs: tuple[Tensor, ...]
    latents: Tensor
    embedded: Tensor


class Reconstructor(nn.Module):
    """[latents | a query for each step] to the fields, or the embedding, of every compressed step.

    Queries hold nothing but a step's age: 0 is the newest step that was compressed.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        model, settings = config.model, config.pretrain
        width = model.n_embd
        longest = model.max_compression_depth * model.compress_lengths[1]
        fields = sum(field_widths(config.env.size).values())
        outputs = fields if settings.objective == "tokens" else width
        self.queries = nn.Parameter(torch.zeros(longest, width))
        self.latent_positions = nn.Parameter(torch.zeros(model.n_latent, width))
        self.input_norm = nn.LayerNorm(width)
        self.blocks = Blocks(model, settings.decoder_n_layer)
        self.output_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)
        initialise(self, settings.decoder_n_layer)

    def forward(self, latents: Tensor, n_steps: int) -> Tensor:
        """Latents (B, n_latent, n_embd) to (B, n_steps, outputs), oldest step first."""
        queries = self.queries[:n_steps].flip(0).expand(latents.shape[0], -1, -1)
        x = self.input_norm(torch.cat([latents + self.latent_positions, queries], dim=1))
        out: Tensor = self.head(self.output_norm(self.blocks(x, None, n_steps)))
        return out

    def all_depths(self, segments: Tensor, latents: Sequence[Tensor]) -> Reconstruction:
        """Reconstruct from the latents behind each of ``segments`` (B, depths, L, n_embd)."""
        length = segments.shape[2]
        return Reconstruction(
            tuple(self(z, k * length) for k, z in enumerate(latents, start=1)),
            torch.stack(list(latents), dim=1),
            segments.detach().flatten(1, 2),
        )


class EncoderPretraining(Compressor):
    """CompressedAD's step embedding and encoder under a reconstruction decoder."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.model, config.env.size)
        self.initialise_compressor()
        self.reconstruction = Reconstructor(config)

    def forward(self, batch: Batch) -> Reconstruction:
        """Compress the window's segments one after the other; reconstruct after each."""
        segments = self.embed(batch.steps).unflatten(1, (-1, batch.segment_length))
        latents = self.unroll(segments, self.initial_latents(segments.shape[0]))
        return self.reconstruction.all_depths(segments, latents[1:])


class WithReconstruction(nn.Module):
    """CompressedAD whose latents are also asked for what went into them (the auxiliary loss)."""

    def __init__(self, model: CompressedAD, config: Config) -> None:
        super().__init__()
        self.model = model
        self.reconstruction = Reconstructor(config)

    def forward(self, batch: Batch) -> tuple[tuple[Tensor, ...], Reconstruction]:
        """CompressedAD's logits, and the reconstruction."""
        folded, last, behind = self.model.compress(batch)
        logits = self.model.decode(folded, last, behind)
        return logits, self.reconstruction.all_depths(folded, behind[1:])
