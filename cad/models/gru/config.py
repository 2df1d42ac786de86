"""Settings of the GRU."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cad.config.section import PositiveInt
from cad.models.blocks.recurrent.config import RecurrentConfig


class GRUConfig(RecurrentConfig):
    """Gated recurrent units instead of attention."""

    kind: Literal["gru"] = Field("gru", description="Gated recurrent units instead of attention.")
    n_hidden: PositiveInt | None = Field(
        None, description="Units of each layer, which are its state; default n_embd."
    )

    @property
    def hidden_width(self) -> int:
        """``n_hidden`` with its default filled in."""
        return self.n_hidden or self.n_embd
