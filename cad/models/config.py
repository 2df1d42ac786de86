"""The section ``model``: what the configs of all kinds share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cad.config.section import NonNegativeInt, PositiveInt, Probability, Section


class ModelConfig(Section):
    """Settings of a sequence model of any kind."""

    kind: str
    n_embd: PositiveInt = Field(64, description="Width.")
    n_layer: PositiveInt = Field(4, description="Decoder layers.")
    n_inner: PositiveInt | None = Field(None, description="Feed-forward width; default 4 x n_embd.")
    dropout: Probability = Field(0.0, description="Residual dropout; attention itself has none.")
    step_embedding: Literal["row_column", "cell"] = Field(
        "row_column",
        description="row_column: one embedding for each field of an observation; cell: one for each "
        "observation as a whole (experiments/ingredients.yaml).",
    )
    embedding_norm: bool = Field(
        True,
        description="Layer norms after the step embedding and before the blocks; false for "
        "experiments/ingredients.yaml.",
    )
    norm: Literal["pre", "post"] = Field(
        "pre", description="Norms before or after each attention and feed-forward layer."
    )

    @property
    def inner_width(self) -> int:
        """``n_inner`` with its default filled in."""
        return self.n_inner or 4 * self.n_embd

    @property
    def uncompressed_steps(self) -> int:
        """Steps that the decoder sees uncompressed."""
        raise NotImplementedError

    @property
    def depth(self) -> int | None:
        """Compressions in a row that training unrolls; None without latents."""
        return None

    @property
    def latents(self) -> int | None:
        """Latent tokens; None without."""
        return None

    @property
    def n_depths(self) -> int:
        """Segments of a training window that are decoded and reported separately."""
        return 1


class TransformerConfig(ModelConfig):
    """Settings of a model that attends to a window of steps."""

    n_transit: PositiveInt = Field(40, description="Window: steps that the decoder sees uncompressed.")
    n_head: PositiveInt = Field(4, description="Attention heads.")

    @property
    def uncompressed_steps(self) -> int:
        """See :attr:`ModelConfig.uncompressed_steps`."""
        return self.n_transit

    @model_validator(mode="after")
    def _heads_fit(self) -> TransformerConfig:
        require_heads_fit(self.n_head, self.n_embd)
        return self


def require_heads_fit(n_head: int, n_embd: int) -> None:
    """Raise ``ValueError`` where heads of equal width do not fill the model's width."""
    if n_embd % n_head:
        raise ValueError(f"n_head={n_head} does not divide n_embd={n_embd}")


class LatentModelConfig(TransformerConfig):
    """Settings of a model whose encoder compresses old context into latents."""

    n_latent: PositiveInt = Field(16, description="Latent tokens that hold the past.")
    max_compression_depth: NonNegativeInt = Field(
        3,
        description="Compressions in a row that training unrolls; roll-outs go on compressing beyond it.",
    )
    encoder_n_layer: PositiveInt = Field(2, description="Encoder layers.")
