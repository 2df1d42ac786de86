"""How much of its attention a decoder gives to latents."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cad.models import CompressedAD
from cad.models.decoder import Decoder
from cad.models.transformer import Attention


def latent_shares(model: CompressedAD, steps: Tensor, latents: Tensor) -> Tensor:
    """Share (layers, B, heads, T) of each step's attention that goes to the latents before it.

    ``steps`` (B, T, n_embd) are embedded, ``latents`` is (B, n_latent, n_embd).  Recomputed from each
    layer's queries and keys: the fused attention of the models does not give its weights away.
    """
    decoder = model.decoder
    with _listening(decoder) as heard:
        decoder(steps, latents)
    n_latent, T = decoder.n_latent, steps.shape[1]
    mask = decoder.mask[: n_latent + T, : n_latent + T]
    shares = []
    for attention, projected in heard:
        weights = attention_weights(attention, projected, mask)
        shares.append(weights[:, :, n_latent:, :n_latent].sum(dim=-1))
    return torch.stack(shares)


def attention_weights(attention: Attention, projected: Tensor, mask: Tensor) -> Tensor:
    """Weights (B, heads, T, T) of a layer, from what its ``qkv`` gave, (B, T, 3 n_embd)."""
    B, T, C = projected.shape
    q, k, _ = projected.view(B, T, 3, attention.n_head, C // 3 // attention.n_head).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return torch.softmax(scores.masked_fill(~mask, float("-inf")), dim=-1)


def uniform_share(n_latent: int, length: int) -> float:
    """The mean share of ``n_latent`` latents over a window of ``length`` steps, all weights equal.

    Step t sees the latents, t steps before it and itself.
    """
    return sum(n_latent / (n_latent + t + 1) for t in range(length)) / length


@contextlib.contextmanager
def _listening(decoder: Decoder) -> Iterator[list[tuple[Attention, Tensor]]]:
    """Within the block, every layer's attention and what its ``qkv`` gives are noted, first layer first."""
    heard: list[tuple[Attention, Tensor]] = []
    with contextlib.ExitStack() as stack:
        for block in decoder.blocks.layers:
            attention = block.attention
            assert isinstance(attention, Attention)

            def note(_: nn.Module, __: object, output: Tensor, attention: Attention = attention) -> None:
                heard.append((attention, output))

            stack.callback(attention.qkv.register_forward_hook(note).remove)
        yield heard
