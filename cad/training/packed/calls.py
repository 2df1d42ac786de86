"""Calls that are made once for all models of a pack, where ``torch.vmap`` has no rule or a slower one.

Under ``vmap`` torch calls attention and embedding bags once a model, takes a linear layer apart into a
product and a sum, and a norm into several passes over memory whose rounding is another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _Once(torch.autograd.Function):
    """Under ``vmap``: one call of a function on stacked tensors (models, ...)."""

    @staticmethod
    def forward(call: Callable[..., Tensor], *inputs: Any) -> Tensor:  # noqa: ARG004
        raise AssertionError("only models that are stacked make this call")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], call: Callable[..., Tensor], *inputs: Any
    ) -> tuple[Tensor, int]:
        """Call with every tensor stacked along its first dimension; those of one model for all repeated."""
        stacked = [
            x
            if not isinstance(x, Tensor)
            else x.expand(info.batch_size, *x.shape)
            if dim is None
            else x.movedim(dim, 0)
            for x, dim in zip(inputs, in_dims[1:], strict=True)
        ]
        return call(*stacked), 0


def _once(call: Callable[..., Tensor], *inputs: Any) -> Tensor:
    result: Tensor = _Once.apply(call, *inputs)  # type: ignore[no-untyped-call]
    return result


class _Products(torch.autograd.Function):
    """:func:`_linear` of rows (models, n, inputs).

    The weights' gradient is ``g^T x``, as torch computes that of one linear layer.  Of batched products it
    computes the transpose of ``x^T g``, whose rounding is another.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias[:, None], x, weight.mT)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of x, the weights and the biases."""
        x, weight = ctx.saved_tensors
        (g,), (to_x, to_weight, to_bias) = gradients, ctx.needs_input_grad
        return (
            torch.bmm(g, weight) if to_x else None,
            torch.bmm(g.mT, x) if to_weight else None,
            g.sum(1) if to_bias else None,
        )


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x`` (models, ..., inputs), ``weight`` (models, outputs, inputs), ``bias`` (models, outputs)."""
    rows, kind = x.reshape(len(x), -1, x.shape[-1]), x.device.type
    if torch.is_autocast_enabled(kind):
        lower = torch.get_autocast_dtype(kind)
        rows, weight, bias = rows.to(lower), weight.to(lower), None if bias is None else bias.to(lower)
    y: Tensor = _Products.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], -1)


# Tables of at most so many rows are looked up by a product on a GPU.
_FEW_ROWS = 1024


def _embedding_bag(indices: Tensor, table: Tensor) -> Tensor:
    """Sums of the rows of each model's ``table`` (models, rows, width) at ``indices`` (models, bags, n)."""
    if table.device.type == "cpu":  # the order in which gradients add up depends on the number of indices
        return torch.stack([F.embedding_bag(i, t, mode="sum") for i, t in zip(indices, table, strict=True)])
    models, rows, _ = table.shape
    if rows <= _FEW_ROWS:
        return bags_as_product(indices, table)
    own = indices + torch.arange(models, device=indices.device)[:, None, None] * rows
    summed: Tensor = F.embedding_bag(own.flatten(0, 1), table.flatten(0, 1), mode="sum")
    return summed.view(models, -1, summed.shape[-1])


def bags_as_product(indices: Tensor, table: Tensor) -> Tensor:
    """:func:`_embedding_bag` as counts of rows times the table.

    The gradient is a product too: in a fixed order, where a GPU's kernel for bags sorts all indices first.
    """
    counts = table.new_zeros(*indices.shape[:2], table.shape[1])
    counts.scatter_add_(2, indices, torch.ones_like(indices, dtype=table.dtype))
    with torch.autocast(table.device.type, enabled=False):
        return torch.bmm(counts, table)


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """``q``, ``k``, ``v`` (models, B, heads, T, width); ``mask`` (models, T, keys)."""
    if mask is not None and mask.stride(0):  # each model's own: their heads are those of one sequence
        y = F.scaled_dot_product_attention(
            q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2), attn_mask=mask[:, None], is_causal=causal
        )
        return y.view(q.shape)
    mask = None if mask is None else mask[0]
    y = F.scaled_dot_product_attention(
        q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), attn_mask=mask, is_causal=causal
    )
    return y.view(*q.shape[:2], *y.shape[1:])


def _norm(
    norm: Callable[..., Tensor], width: Sequence[int], eps: float | None, x: Tensor, *own: Tensor
) -> Tensor:
    """``F.layer_norm`` or ``F.rms_norm`` of ``x`` (models, ...); weights and biases are (models, width).

    The fused kernels know one weight only.  On a CPU they are called for each model: the bits of one alone.
    """
    if x.device.type == "cpu":
        rows = zip(x, *own, strict=True)
        return torch.stack([norm(row, width, *theirs, eps=eps) for row, *theirs in rows])
    weight, *bias = (parameter.view(len(x), *[1] * (x.ndim - 2), -1) for parameter in own)
    scaled = norm(x, width, eps=eps) * weight
    return scaled + bias[0] if bias else scaled


class StackedCalls(TorchFunctionMode):
    """Within the block, models that ``torch.vmap`` stacks make these calls as one."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """See :class:`TorchFunctionMode`."""
        kwargs = kwargs or {}
        if func is F.linear:
            return _once(_linear, *args, *kwargs.values())
        if func is F.scaled_dot_product_attention:
            return _once(_attention, *args, kwargs.get("attn_mask"), kwargs.get("is_causal", False))
        if func is F.embedding_bag:
            assert kwargs["mode"] == "sum"
            return _once(_embedding_bag, *args[:2])
        if func is F.layer_norm or func is F.rms_norm:
            x, width = args
            own = [kwargs[key] for key in ("weight", "bias") if kwargs.get(key) is not None]
            return _once(partial(_norm, func, width, kwargs["eps"]), x, *own)
        return func(*args, **kwargs)


class MaskStreams:
    """The random numbers of each model's dropout masks: those it would draw alone, in its order."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        """One stream a model, from the seed of its update."""
        self._generator = (
            torch.cuda.default_generators[device.index or 0]
            if device.type == "cuda"
            else torch.default_generator
        )
        self._states = [self._generator.manual_seed(seed).get_state() for seed in seeds]

    def draw(self, rates: Sequence[float], like: Tensor) -> Tensor:
        """Masks (models, ...) of the shape of ``like``: 0, or what keeps the mean."""
        masks = []
        for model, rate in enumerate(rates):
            self._generator.set_state(self._states[model])
            masks.append(F.dropout(torch.ones_like(like[model]), rate))
            self._states[model] = self._generator.get_state()
        return torch.stack(masks)


class StackedDropout(nn.Module):
    """In place of the models' ``nn.Dropout``: every model's own rate, and masks from its own stream."""

    def __init__(self, rates: Sequence[float]) -> None:
        super().__init__()
        self._rates = list(rates)
        self.streams: MaskStreams | None = None
        """Set before each update, for the models that it is of."""
        self.models: Sequence[int] = range(len(rates))

    def forward(self, x: Tensor) -> Tensor:
        """Under ``vmap``: (B, ...) to (B, ...)."""
        rates, streams = [self._rates[model] for model in self.models], self.streams
        if streams is None or not any(rates):
            return x
        return _once(lambda stacked: stacked * streams.draw(rates, stacked), x)
