"""Reconstruction: a small decoder that predicts from latents alone what was compressed into them.

It teaches the encoder to remember, before action training (:class:`EncoderPretraining`) or beside
it (:class:`WithReconstruction`), and is thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cad.config.training import PretrainConfig
from cad.envs.family import Spaces
from cad.errors import UsageError
from cad.histories.batch import Batch
from cad.models.blocks.transformer import Blocks, initialise
from cad.models.compressed_ad.config import CompressedADConfig
from cad.models.compressed_ad.network import CompressedAD, Compressor


def field_widths(spaces: Spaces) -> dict[str, int]:
    """The fields of a step's token that are reconstructed, and how many values each takes.

    ``action`` and ``reward`` are those that the token holds: of the step before.
    """
    if spaces.n_reals or not spaces.n_rewards:
        raise UsageError(
            "tokens can be reconstructed only where observations and rewards are whole numbers; set "
            "train.reconstruction_weight to 0, and pretrain.objective to embeddings or pretrain.enabled to "
            "false"
        )
    fields = dict(zip(spaces.field_names, spaces.field_sizes, strict=True))
    return {**fields, "action": spaces.n_actions + 1, "reward": spaces.n_rewards}


class Reconstruction(NamedTuple):
    """What is predicted of the compressed steps, depth by depth (a tuple: engines look for tensors in it).

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

    def __init__(self, model: CompressedADConfig, settings: PretrainConfig, spaces: Spaces) -> None:
        super().__init__()
        width = model.n_embd
        longest = model.max_compression_depth * model.compress_lengths[1]
        fields = sum(field_widths(spaces).values())
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
        """Reconstruct from the latents after each of ``segments`` (B, depths, L, n_embd)."""
        length = segments.shape[2]
        return Reconstruction(
            tuple(self(z, k * length) for k, z in enumerate(latents, start=1)),
            torch.stack(list(latents), dim=1),
            segments.detach().flatten(1, 2),
        )


class EncoderPretraining(Compressor):
    """CompressedAD's step embedding and encoder under a reconstruction decoder."""

    def __init__(self, config: CompressedADConfig, settings: PretrainConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        self.initialise_compressor()
        self.reconstruction = Reconstructor(config, settings, spaces)

    def forward(self, batch: Batch) -> Reconstruction:
        """Compress the window's segments one after the other; reconstruct after each."""
        segments = self.embed(batch.steps).unflatten(1, (-1, batch.segment_length))
        latents = self.unroll(segments, self.initial_latents(segments.shape[0]))
        return self.reconstruction.all_depths(segments, latents[1:])


class WithReconstruction(nn.Module):
    """CompressedAD whose latents also predict what went into them (the auxiliary loss)."""

    def __init__(self, model: CompressedAD, settings: PretrainConfig) -> None:
        super().__init__()
        self.model = model
        self.reconstruction = Reconstructor(model.config, settings, model.spaces)

    def forward(self, batch: Batch) -> tuple[tuple[Tensor, ...], Reconstruction]:
        """CompressedAD's logits, and the reconstruction."""
        compressed, last, latents = self.model.compress(batch)
        logits = self.model.decode(compressed, last, latents)
        return logits, self.reconstruction.all_depths(compressed, latents[1:])
