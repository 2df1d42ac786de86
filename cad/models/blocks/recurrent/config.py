"""Settings of a recurrent model of any kind."""

from __future__ import annotations

from pydantic import Field

from cad.config.section import PositiveInt
from cad.models.config import ModelConfig


class RecurrentConfig(ModelConfig):
    """A state of constant size that every step updates."""

    n_unroll: PositiveInt = Field(
        160,
        description="Steps of a training window, over which the state is unrolled from zeros; roll-outs "
        "never reset it. Default: as many as the default CompressedAD unrolls, (depth + 1) x n_transit.",
    )

    @property
    def uncompressed_steps(self) -> int:
        """The current step; everything older is in the state."""
        return 1
