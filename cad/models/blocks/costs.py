"""What the shared blocks cost: multiply-accumulates and bytes."""

from __future__ import annotations

from cad.models.config import LatentModelConfig, ModelConfig

FLOAT_BYTES = 4


def blocks_work(model: ModelConfig, layers: int, tokens: float, seen: float) -> float:
    """Million multiply-accumulates of blocks over ``tokens`` tokens, each of which sees ``seen``."""
    d = model.n_embd
    return layers * tokens * (4 * d * d + 2 * d * model.inner_width + 2 * d * seen) / 1e6


def encoder_work(model: LatentModelConfig, steps: float, *, gated: bool = False) -> float:
    """Million multiply-accumulates of compressing ``steps`` steps once."""
    tokens = 2 * model.n_latent + steps  # old latents, steps, queries
    gates = 2 * model.n_latent * model.n_embd * model.n_embd / 1e6 if gated else 0.0
    return gates + blocks_work(model, model.encoder_n_layer, tokens, tokens)


def cache_bytes(model: ModelConfig, positions: int) -> int:
    """Bytes of a key/value cache for one roll-out."""
    return 2 * model.n_layer * positions * model.n_embd * FLOAT_BYTES


def vectors_bytes(model: ModelConfig, vectors: int) -> int:
    """Bytes of that many vectors of the model's width."""
    return vectors * model.n_embd * FLOAT_BYTES
