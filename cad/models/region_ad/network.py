"""RegionAD: a history in regions between inserted tokens, which the model learns to close itself.

A region is ``<compress>``, its steps, ``</compress>``.  Besides each step's action the model
predicts the type of the next element; in a roll-out its own ``</compress>`` ends the region.  The
decoder sees ``n_regions`` regions, the open one included.  When one more is closed, the oldest is
forgotten, or (``on_compress: latents``) compressed into latents by an encoder like CompressedAD's.

A region's positions start at a fixed place for each of the ``n_regions`` slots, however long the
regions before it are: in a roll-out their lengths are the model's own choice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cad.envs.family import Spaces
from cad.histories.batch import Batch
from cad.models.blocks.encoder import Encoder
from cad.models.blocks.step_embedding import StepEmbedding
from cad.models.blocks.transformer import Blocks, KeyValueCache, initialise, prefix_mask
from cad.models.network import SequenceModel
from cad.models.region_ad.config import RegionADConfig

TRANSITION, START, END = 0, 1, 2  # types of elements; START is <compress>, END is </compress>


class RegionDecoder(nn.Module):
    """Causal over elements after latents; heads for the action and for the next element's type."""

    def __init__(self, config: RegionADConfig, n_actions: int, n_latent: int) -> None:
        super().__init__()
        self.config = config
        self.n_latent = n_latent
        self.types = nn.Embedding(3, config.n_embd)
        self.positions = nn.Parameter(torch.zeros(n_latent + config.n_transit, config.n_embd))
        self.input_norm = nn.LayerNorm(config.n_embd)
        self.blocks = Blocks(config, config.n_layer, self.n_latent)
        self.output_norm = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, n_actions)
        self.type_head = nn.Linear(config.n_embd, 3)
        self.register_buffer("mask", prefix_mask(n_latent, config.n_transit), persistent=False)
        self.mask: Tensor

    def forward(
        self,
        steps: Tensor,
        types: Tensor,
        places: Tensor,
        latents: Tensor,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Outputs (B, T, n_embd) of elements (B, T), for :meth:`actions` and :meth:`next_types`.

        ``steps`` (B, T, n_embd) holds embedded steps and zeros for tokens, ``types`` the elements'
        types, ``places`` their positions in the window.  ``latents`` is (B, n_latent, n_embd).
        ``cache``, an empty one, takes in all keys and values.
        """
        x = self._embed(steps, types, places)
        x = torch.cat([self.input_norm(latents + self.positions[: self.n_latent]), x], dim=1)
        total = x.shape[1]
        y: Tensor = self.output_norm(self.blocks(x, self.mask[:total, :total], total - self.n_latent, cache))
        return y

    def append(self, step: Tensor, place: Tensor, cache: RowCache) -> tuple[Tensor, Tensor]:
        """Append one step (B, n_embd) at places (B,) to each row of a cache.

        Returns the logits (B, actions) of its action and (B, 3) of the next element's type.
        """
        x = self._embed(step, torch.full_like(place, TRANSITION), place)[:, None]
        y = self.output_norm(self.blocks(x, cache.mask_of_next(), 1, cache))[:, 0]
        return self.head(y), self.type_head(y)

    def _embed(self, steps: Tensor, types: Tensor, places: Tensor) -> Tensor:
        x: Tensor = self.input_norm(steps + self.types(types) + self.positions[self.n_latent + places])
        return x


class RowCache(KeyValueCache):
    """A cache whose rows are filled to different lengths (B,).

    While all rows are equally long it is as fast as the one in lock step.
    """

    def __init__(self, config: RegionADConfig, batch: int, capacity: int, like: Tensor) -> None:
        super().__init__(config, batch, capacity, like)
        # Masked is not enough for positions never written: NaN times zero is NaN.
        self.keys.zero_()
        self.values.zero_()
        self._all = torch.arange(batch, device=like.device)
        self.set_lengths([0] * batch)

    def set_lengths(self, lengths: list[int]) -> None:
        """Say how much of each row is filled."""
        self.length = max(lengths)
        self._alike = min(lengths) == self.length
        self._lengths = torch.tensor(lengths, device=self._all.device)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store one position (B, n_head, 1, head width) at the end of each row."""
        if self._alike:
            return super().append(layer, keys, values)
        self.keys[layer][self._all, :, self._lengths] = keys[:, :, 0]
        self.values[layer][self._all, :, self._lengths] = values[:, :, 0]
        end = self.length + 1
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def mask_of_next(self) -> Tensor | None:
        """What the next position of each row may see, (B, 1, 1, keys); None for everything."""
        if self._alike:
            return None
        seen = torch.arange(self.length + 1, device=self._all.device) <= self._lengths[:, None]
        return seen[:, None, None]

    def advance(self, t: int) -> None:
        """See :meth:`KeyValueCache.advance`."""
        super().advance(t)
        self._lengths += t

    def copy_rows(self, rows: Tensor, source: KeyValueCache) -> None:
        """Overwrite ``rows`` with what a cache of that many rows holds."""
        self.keys[:, rows, :, : source.length] = source.keys[:, :, :, : source.length]
        self.values[:, rows, :, : source.length] = source.values[:, :, :, : source.length]


class RegionAD(SequenceModel):
    """AD over regions that it closes itself."""

    config: RegionADConfig

    def __init__(self, config: RegionADConfig, spaces: Spaces) -> None:
        super().__init__(config, spaces)
        self.embed = StepEmbedding(spaces, config.n_embd)
        n_latent = config.latents or 0
        self.encoder = Encoder(config) if n_latent else None
        self.decoder = RegionDecoder(config, spaces.n_actions, n_latent)
        # What the past looks like before there is one.
        self.first_latents = nn.Parameter(torch.zeros(n_latent, config.n_embd)) if n_latent else None
        initialise(self, config.n_layer)
        if self.encoder is not None:
            initialise(self.encoder, config.encoder_n_layer)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Action logits (B, regions, T, actions) and next-type logits (N, elements, 3).

        The first ``n_regions`` regions are decoded together.  Each further one is decoded after
        the ``n_regions`` - 1 before it, and after latents of all that are older, as in a
        roll-out.  Types are predicted in all N = B x (decodings) windows, for the elements that
        :func:`type_targets` lists.
        """
        B, L, seen = batch.actions.shape[0], batch.segment_length, self.config.n_regions
        # (B, regions, L, n_embd)
        regions = self.embed(batch.steps).unflatten(1, (-1, L))
        latents = [self.initial_latents(B)]
        if self.encoder is not None:
            for k in range(regions.shape[1] - seen):
                latents.append(self.encoder(latents[-1], regions[:, k]))
        # Windows of n_regions regions, each between its tokens: (B x windows, elements, n_embd).
        steps = nn.functional.pad(regions, (0, 0, 1, 1))
        windows = torch.stack([steps[:, k : k + seen].flatten(1, 2) for k in range(len(latents))], dim=1)
        types, places = region_layout(self.config, L, regions.device)
        out = self.decoder(windows.flatten(0, 1), types, places, torch.stack(latents, dim=1).flatten(0, 1))
        # (B, windows, n_regions, L, n_embd): steps only.
        hidden = out.view(B, len(latents), seen, L + 2, -1)[:, :, :, 1:-1]
        logits = self.decoder.head(torch.cat([hidden[:, 0], hidden[:, 1:, -1]], dim=1))
        return logits, self.decoder.type_head(out)

    def initial_latents(self, batch: int) -> Tensor:
        """Latents (B, n_latent, n_embd) of an empty past; n_latent is 0 where regions are dropped."""
        if self.first_latents is None:
            return self.decoder.positions.new_zeros(batch, 0, self.config.n_embd)
        return self.first_latents.expand(batch, -1, -1)


def region_layout(config: RegionADConfig, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Types and places (elements,) of a window of whole regions of ``length`` steps."""
    place = torch.arange(length + 2, device=device)  # computed, not copied: a CUDA graph cannot hold a copy
    one = (place == 0) * START + (place == length + 1) * END  # and TRANSITION, which is 0, between them
    slots = torch.arange(config.n_regions, device=device)[:, None] * config.region_room
    return one.repeat(config.n_regions), (slots + torch.arange(length + 2, device=device)).flatten()


def type_targets(config: RegionADConfig, length: int, device: torch.device) -> Tensor:
    """Type of the element that follows each one of a window's, (elements,)."""
    types, _ = region_layout(config, length, device)
    return types.roll(-1)  # a window that ends is followed by another region's start
