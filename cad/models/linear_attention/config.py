"""Settings of linear attention."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cad.config.section import PositiveInt
from cad.models.blocks.recurrent.config import RecurrentConfig
from cad.models.config import require_heads_fit

CHUNK = 32
"""Steps that are worked through at once: within a chunk by matrices, from chunk to chunk by the state."""


class LinearAttentionConfig(RecurrentConfig):
    """Linear attention with a gated delta rule."""

    kind: Literal["linear_attention"] = Field(
        "linear_attention", description="Linear attention with a gated delta rule."
    )
    n_head: PositiveInt = Field(4, description="Attention heads.")
    head_width: PositiveInt | None = Field(
        None,
        description="Width of each head's keys and values, whose state is a matrix of that width; "
        "default n_embd / n_head.",
    )

    @property
    def key_width(self) -> int:
        """``head_width`` with its default filled in."""
        return self.head_width or self.n_embd // self.n_head

    @model_validator(mode="after")
    def _heads_fit(self) -> LinearAttentionConfig:
        if self.head_width is None:
            require_heads_fit(self.n_head, self.n_embd)
        return self
