"""Transformer blocks, with a key/value cache for roll-outs.

Attention has no dropout: on a CPU, dropout inside attention forces it off the fused path.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cad.models.config import ModelConfig, TransformerConfig


class KeyValueCache:
    """Keys and values of a growing sequence for every layer, in buffers of fixed size.

    ``keys`` and ``values`` are (n_layer, B, n_head, capacity, head width); the first ``length``
    positions are filled.  Memory does not grow with the number of steps.
    """

    def __init__(self, config: TransformerConfig, batch: int, capacity: int, like: Tensor) -> None:
        shape = (config.n_layer, batch, config.n_head, capacity, config.n_embd // config.n_head)
        self.keys = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.values = torch.empty_like(self.keys)
        self.length = 0

    def append_one(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`append` of one position, (B, n_head, head width)."""
        all_keys, all_values = self.keys[layer], self.values[layer]
        all_keys.select(2, self.length).copy_(keys)
        all_values.select(2, self.length).copy_(values)
        end = self.length + 1
        return all_keys.narrow(2, 0, end), all_values.narrow(2, 0, end)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, n_head, t, head width) at the end; return all of the layer's keys and values."""
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, t: int) -> None:
        """Count ``t`` more positions as filled, once every layer has appended them."""
        self.length += t

    @property
    def state_bytes(self) -> int:
        """Bytes of the buffers, for one element of the batch."""
        return 2 * self.keys.element_size() * self.keys.numel() // self.keys.shape[1]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of queries (B, n_head, n_out, head width); ``mask`` is True where a query may look.

    On a CPU in float32 whatever the autocast is: with the backward pass of its attention in bfloat16 an
    update took twice as long (benchmarks/README.md).
    """
    if q.device.type != "cpu" or q.dtype not in (torch.bfloat16, torch.float16):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    with torch.autocast("cpu", enabled=False):
        y = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
    return y.to(q.dtype)


def has_flash_attention(q: Tensor) -> bool:
    """Whether there is a kernel for these queries that takes no mask but a causal one (arXiv:2205.14135)."""
    return q.device.type == "cuda" and q.dtype in (torch.bfloat16, torch.float16)


def prefix_attention(q: Tensor, k: Tensor, v: Tensor, prefix: int) -> Tensor:
    """:func:`attend` with :func:`prefix_mask`, for queries of the last positions, by calls without a mask."""
    missing = k.shape[2] - q.shape[2]
    y = F.scaled_dot_product_attention(F.pad(q, (0, 0, missing, 0)), k, v, is_causal=True)[:, :, missing:]
    both_ways = max(0, prefix - missing)
    if not both_ways:
        return y
    latents = F.scaled_dot_product_attention(q[:, :, :both_ways], k[:, :, :prefix], v[:, :, :prefix])
    return torch.cat([latents, y[:, :, both_ways:]], dim=2)


class Attention(nn.Module):
    """Multi-head attention whose queries are the last ``n_out`` positions.

    Where all sequences are masked by :func:`prefix_mask`, its ``prefix`` says so: then flash attention is
    taken where there is any.
    """

    def __init__(self, n_embd: int, n_head: int, prefix: int | None = None) -> None:
        super().__init__()
        self.n_head, self.prefix = n_head, prefix
        self.qkv = nn.Linear(n_embd, 3 * n_embd)
        self.out = nn.Linear(n_embd, n_embd)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        n_out: int,
        cache: KeyValueCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """(B, T, n_embd) to (B, n_out, n_embd); ``mask`` (n_out, keys) is True where a query may look."""
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)
        q = q[:, :, T - n_out :]
        if cache is not None:
            y = attend(q, *cache.append(layer, k, v), mask)
        elif self.prefix is not None and has_flash_attention(q):
            y = prefix_attention(q, k, v, self.prefix)
        else:
            y = attend(q, k, v, mask)
        projected: Tensor = self.out(y.transpose(1, 2).reshape(B, n_out, C))
        return projected


def input_norm(config: ModelConfig) -> nn.Module:
    """The norm between embeddings and blocks."""
    return nn.LayerNorm(config.n_embd) if config.embedding_norm else nn.Identity()


class Block(nn.Module):
    """Attention, then a feed-forward layer, each added to the residual stream; pre-norm or post-norm."""

    def __init__(self, config: TransformerConfig, prefix: int | None = None) -> None:
        super().__init__()
        inner = config.inner_width
        self._post = config.norm == "post"
        self.attention_norm = nn.LayerNorm(config.n_embd)
        self.attention = Attention(config.n_embd, config.n_head, prefix)
        self.feed_forward_norm = nn.LayerNorm(config.n_embd)
        self.expand = nn.Linear(config.n_embd, inner)
        self.contract = nn.Linear(inner, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        n_out: int,
        cache: KeyValueCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """(B, T, n_embd) to (B, n_out, n_embd): the outputs of the last ``n_out`` positions."""
        if self._post:
            attended = self.attention(x, mask, n_out, cache, layer)
            x = self.attention_norm(x[:, x.shape[1] - n_out :] + self.dropout(attended))
            hidden = F.gelu(self.expand(x))
            normed: Tensor = self.feed_forward_norm(x + self.dropout(self.contract(hidden)))
            return normed
        attended = self.attention(self.attention_norm(x), mask, n_out, cache, layer)
        x = x[:, x.shape[1] - n_out :] + self.dropout(attended)
        hidden = F.gelu(self.expand(self.feed_forward_norm(x)))
        out: Tensor = x + self.dropout(self.contract(hidden))
        return out


@dataclass(frozen=True, slots=True)
class PlainLinear:
    """A linear layer as single steps call it: a bias, and weights (inputs, outputs)."""

    bias: Tensor
    weight: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(n, inputs) to (n, outputs)."""
        return torch.addmm(self.bias, x, self.weight)


@dataclass(frozen=True, slots=True)
class PlainNorm:
    """A layer norm as single steps call it."""

    width: tuple[int, ...]
    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """(n, width) to (n, width)."""
        return torch.layer_norm(x, self.width, self.weight, self.bias, self.eps)


def plain_linear(layer: nn.Linear) -> PlainLinear:
    """What calls a linear layer without its module."""
    return PlainLinear(layer.bias, layer.weight.t())


def plain_norm(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    """What calls a layer norm, where there is one, without its module."""
    if isinstance(norm, nn.LayerNorm):
        return PlainNorm(tuple(norm.normalized_shape), norm.weight, norm.bias, norm.eps)
    return norm


class Plain:
    """A part of a network without its modules: what it computes with is the network's."""


class PlainBlock(Plain):
    """A block in eval mode, for one position at a time: the same operations without calls of modules.

    In a roll-out of a few tasks a step is dozens of small operations; calling modules would take as long.
    """

    def __init__(self, block: Block) -> None:
        attention = block.attention
        self._post, self._heads = block._post, attention.n_head
        self._norm, self._second_norm = map(plain_norm, (block.attention_norm, block.feed_forward_norm))
        self._qkv, self._out = map(plain_linear, (attention.qkv, attention.out))
        self._expand, self._contract = map(plain_linear, (block.expand, block.contract))

    def __call__(self, x: Tensor, cache: KeyValueCache, layer: int) -> Tensor:
        """(B, n_embd) to (B, n_embd) at the position after the cache's, which it takes in."""
        if self._post:
            x = self._norm(x + self._attend(x, cache, layer))
            return self._second_norm(x + self._feed_forward(x))
        x = x + self._attend(self._norm(x), cache, layer)
        return x + self._feed_forward(self._second_norm(x))

    def _attend(self, x: Tensor, cache: KeyValueCache, layer: int) -> Tensor:
        B, C = x.shape
        q, k, v = self._qkv(x).view(B, 3, self._heads, C // self._heads).unbind(1)
        k, v = cache.append_one(layer, k, v)
        y = F.scaled_dot_product_attention(q.unsqueeze(2), k, v)
        return self._out(y.reshape(B, C))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self._contract(F.gelu(self._expand(x)))


class Blocks(nn.Module):
    """A stack of blocks; the last one computes only the positions that are asked for.

    The others' last-layer outputs would be thrown away: leaving them out changes no result.
    """

    def __init__(self, config: TransformerConfig, n_layer: int, prefix: int | None = None) -> None:
        """``prefix``: see :class:`Attention`."""
        super().__init__()
        self.layers = nn.ModuleList(Block(config, prefix) for _ in range(n_layer))

    def forward(
        self, x: Tensor, mask: Tensor | None, n_out: int, cache: KeyValueCache | None = None
    ) -> Tensor:
        """(B, T, n_embd) to (B, n_out, n_embd); ``mask`` is (T, keys), None lets all see all."""
        T = x.shape[1]
        for i, block in enumerate(self.layers):
            last = i == len(self.layers) - 1
            if last and mask is not None:
                mask = mask[T - n_out :]
            x = block(x, mask, n_out if last else T, cache, i)
        if cache is not None:
            cache.advance(T)
        return x


def prefix_mask(prefix: int, length: int, device: torch.device | str = "cpu") -> Tensor:
    """(prefix + length)² mask: the prefix sees itself both ways, the rest sees it and is causal."""
    total = prefix + length
    mask = torch.ones(total, total, dtype=torch.bool, device=device).tril()
    mask[:prefix, :prefix] = True
    return mask


def initialise(module: nn.Module, n_layer: int) -> None:
    """Scaled initialisation: normal, std 0.02, and 0.02 / sqrt(2 n_layer) where a residual branch ends."""
    for name, parameter in module.named_parameters():
        if name.endswith(("out.weight", "contract.weight")):
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * n_layer))
        elif parameter.ndim >= 2:
            nn.init.normal_(parameter, std=0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
