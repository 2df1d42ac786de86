"""Settings of RegionAD."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cad.config.section import PositiveInt
from cad.models.config import LatentModelConfig


class RegionADConfig(LatentModelConfig):
    """Regions between <compress> and </compress> tokens, which the model closes itself."""

    kind: Literal["region_ad"] = Field(
        "region_ad",
        description="Regions between <compress> and </compress> tokens, which the model closes itself. "
        "n_latent, max_compression_depth and encoder_n_layer are used with on_compress=latents only.",
    )
    n_transit: PositiveInt = Field(
        40, description="Window: steps and tokens that the decoder sees, divided evenly among n_regions."
    )
    compress_interval: PositiveInt = Field(
        80,
        description="Steps at which training cuts a history into regions; equals source.n_steps, so that a "
        "region is one PPO iteration.",
    )
    n_regions: Annotated[int, Field(ge=2, le=4)] = Field(
        2,
        description="Consecutive regions that the decoder sees, the open one included. A roll-out's region "
        "may grow to n_transit / n_regions - 2 steps; then it is closed for the model.",
    )
    on_compress: Literal["drop", "latents"] = Field(
        "drop",
        description="What happens to the oldest region when one more is closed. drop: it is forgotten; "
        "latents: an encoder compresses it into latents, as in compressed_ad.",
    )

    @property
    def compresses_regions(self) -> bool:
        """Whether the oldest region is compressed into latents, not forgotten."""
        return self.on_compress == "latents"

    @property
    def depth(self) -> int | None:
        """See :attr:`ModelConfig.depth`."""
        return self.max_compression_depth if self.compresses_regions else None

    @property
    def latents(self) -> int | None:
        """See :attr:`ModelConfig.latents`."""
        return self.n_latent if self.compresses_regions else None

    @property
    def uncompressed_steps(self) -> int:
        """Steps of the regions in view, without their tokens."""
        return self.n_regions * self.compress_interval

    @property
    def region_room(self) -> int:
        """Elements (steps and the two tokens) that one region may take in the decoder's window."""
        return self.n_transit // self.n_regions

    @property
    def training_regions(self) -> int:
        """Regions of a training window: those that the decoder sees, and those compressed before them."""
        return self.n_regions + (self.max_compression_depth if self.compresses_regions else 0)

    @property
    def n_depths(self) -> int:
        """Regions of a training window."""
        return self.training_regions

    @model_validator(mode="after")
    def _regions_fit(self) -> RegionADConfig:
        if self.step_embedding != "row_column" or not self.embedding_norm:
            raise ValueError("step_embedding and embedding_norm are switches of ad and compressed_ad")
        needed = self.n_regions * (self.compress_interval + 2)
        if self.n_transit < needed:
            raise ValueError(
                f"n_transit={self.n_transit} does not hold n_regions={self.n_regions} regions of "
                f"compress_interval={self.compress_interval} steps and two tokens; it takes {needed}"
            )
        if self.compresses_regions and not self.max_compression_depth:
            raise ValueError("on_compress=latents needs max_compression_depth of at least 1")
        return self
