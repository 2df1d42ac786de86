"""Settings of AD."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cad.config.section import NonNegativeInt, PositiveInt
from cad.models.config import TransformerConfig


class ADConfig(TransformerConfig):
    """A window of the last ``n_transit`` steps."""

    kind: Literal["ad"] = Field("ad", description="A window of the last n_transit steps.")
    drop_block: PositiveInt | None = Field(
        None,
        description="Steps that a full window drops at once in a roll-out (the rest is re-encoded); "
        "default n_transit / 4. 1 is the exact sliding window, at the cost of a re-encoding a step.",
    )
    n_sink: NonNegativeInt = Field(
        0,
        description="Attention sinks: the first steps of a roll-out, which stay in the window (n_transit "
        "counts them) while the others slide.",
    )

    @property
    def steps_dropped(self) -> int:
        """``drop_block`` with its default filled in."""
        return self.drop_block or max(1, self.n_transit // 4)

    @model_validator(mode="after")
    def _window_fits(self) -> ADConfig:
        if self.steps_dropped > self.n_transit:
            raise ValueError(f"drop_block={self.drop_block} is above the window n_transit={self.n_transit}")
        if self.n_sink + self.steps_dropped > self.n_transit:
            raise ValueError(
                f"n_sink={self.n_sink} leaves fewer than the {self.steps_dropped} steps that a full window "
                f"of n_transit={self.n_transit} drops at once (drop_block)"
            )
        return self
