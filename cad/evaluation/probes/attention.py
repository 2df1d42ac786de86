"""The share of a decoder's attention that goes to latents."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cad.models.blocks.decoder import Decoder
from cad.models.blocks.transformer import Attention
from cad.models.compressed_ad.network import CompressedAD


def latent_shares(model: CompressedAD, steps: Tensor, latents: Tensor) -> Tensor:
    """Share (layers, B, heads, T) of each step's attention that goes to the latents before it.

    ``steps`` (B, T, n_embd) are embedded, ``latents`` is (B, n_latent, n_embd).  Recomputed from each
    layer's queries and keys, because the models' fused attention does not return its weights.
    """
    decoder = model.decoder
    with _recording(decoder) as recorded:
        decoder(steps, latents)
    n_latent, T = decoder.n_latent, steps.shape[1]
    mask = decoder.mask[: n_latent + T, : n_latent + T]
    shares = []
    for attention, projected in recorded:
        weights = attention_weights(attention, projected, mask)
        shares.append(weights[:, :, n_latent:, :n_latent].sum(dim=-1))
    return torch.stack(shares)


def attention_weights(attention: Attention, projected: Tensor, mask: Tensor) -> Tensor:
    """Weights (B, heads, T, T) of a layer from the output of its ``qkv``, (B, T, 3 n_embd)."""
    B, T, C = projected.shape
    q, k, _ = projected.view(B, T, 3, attention.n_head, C // 3 // attention.n_head).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return torch.softmax(scores.masked_fill(~mask, float("-inf")), dim=-1)


def uniform_share(n_latent: int, length: int) -> float:
    """The mean share of ``n_latent`` latents over a window of ``length`` steps if all weights are equal.

    Step t attends to the latents, to the t steps before it and to itself.
    """
    return sum(n_latent / (n_latent + t + 1) for t in range(length)) / length


@contextlib.contextmanager
def _recording(decoder: Decoder) -> Iterator[list[tuple[Attention, Tensor]]]:
    """Within the block, record every layer's attention and the output of its ``qkv``, first layer first."""
    recorded: list[tuple[Attention, Tensor]] = []
    with contextlib.ExitStack() as stack:
        for block in decoder.blocks.layers:
            attention = block.attention
            assert isinstance(attention, Attention)

            def record(_: nn.Module, __: object, output: Tensor, attention: Attention = attention) -> None:
                recorded.append((attention, output))

            stack.callback(attention.qkv.register_forward_hook(record).remove)
        yield recorded
