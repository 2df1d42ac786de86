"""Settings of CompressedAD."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cad.config.section import NonNegativeInt, PositiveInt
from cad.models.config import LatentModelConfig


class CompressedADConfig(LatentModelConfig):
    """Latents, and a window of the steps since they were made."""

    kind: Literal["compressed_ad"] = Field(
        "compressed_ad", description="Latents, and a window of the steps since they were made."
    )
    max_compression_depth: NonNegativeInt = Field(
        3,
        description="Compressions in a row that training unrolls; roll-outs go on compressing beyond it. "
        "0: none; a full window is forgotten.",
    )
    latent_update: Literal["overwrite", "gated"] = Field(
        "overwrite",
        description="What a compression makes of the latents. overwrite: new ones replace them; gated: they "
        "are mixed with what they were, as a learned gate says.",
    )
    min_compress_length: PositiveInt | None = Field(
        None, description="Shortest segment that training compresses; default n_transit / 2."
    )
    max_compress_length: PositiveInt | None = Field(
        None,
        description="Longest segment that training compresses, and the number of steps that a roll-out "
        "gathers before it compresses them; default n_transit.",
    )
    min_uncompressed_length: PositiveInt | None = Field(
        None,
        description="Shortest last segment of a training window, the one that is not compressed; default: "
        "as long as the others, which are drawn from the range above.",
    )
    max_uncompressed_length: PositiveInt | None = Field(
        None, description="Longest last segment; min_uncompressed_length goes with it."
    )

    @property
    def depth(self) -> int:
        """See :attr:`ModelConfig.depth`."""
        return self.max_compression_depth

    @property
    def latents(self) -> int:
        """See :attr:`ModelConfig.latents`."""
        return self.n_latent

    @property
    def n_depths(self) -> int:
        """Depths 0 to ``max_compression_depth``."""
        return self.max_compression_depth + 1

    @property
    def compress_lengths(self) -> tuple[int, int]:
        """Shortest and longest training segment, in steps."""
        low = self.min_compress_length or max(1, self.n_transit // 2)
        return low, self.max_compress_length or self.n_transit

    @property
    def uncompressed_lengths(self) -> tuple[int, int] | None:
        """Shortest and longest last segment, in steps; None: as long as the others."""
        if self.min_uncompressed_length is None or self.max_uncompressed_length is None:
            return None
        return self.min_uncompressed_length, self.max_uncompressed_length

    @model_validator(mode="after")
    def _lengths_fit(self) -> CompressedADConfig:
        low, high = self.compress_lengths
        if low > high:
            raise ValueError(f"min_compress_length={low} is above max_compress_length={high}")
        if high > self.n_transit:
            raise ValueError(
                f"max_compress_length={high} is above the window n_transit={self.n_transit}: "
                "such a segment would never be compressed"
            )
        shortest, longest = self.min_uncompressed_length, self.max_uncompressed_length
        if (shortest is None) != (longest is None):
            raise ValueError("set both min_uncompressed_length and max_uncompressed_length, or neither")
        if shortest is not None and longest is not None and shortest > longest:
            raise ValueError(f"min_uncompressed_length={shortest} is above max_uncompressed_length={longest}")
        if longest is not None and longest > self.n_transit:
            raise ValueError(
                f"max_uncompressed_length={longest} is above the window n_transit={self.n_transit}"
            )
        return self
