"""Optimisers with a warm-up and a cosine, and their state as named tensors."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from cad.config import LoopConfig


def rate_factor(settings: LoopConfig, update: int) -> float:
    """Learning rate of an update (counted from 0) as a share of the peak.

    Linear warm-up, then a cosine down to ``min_lr_ratio``.
    """
    warmup = settings.num_warmup_steps
    if update < warmup:
        return (update + 1) / warmup
    progress = (update - warmup) / max(1, settings.n_updates - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return settings.min_lr_ratio + (1 - settings.min_lr_ratio) * cosine


class Optimiser:
    """AdamW, or Muon for the transformer blocks' matrices and AdamW for everything else.

    Muon (Jordan et al., 2024) orthogonalises a matrix's momentum before applying it.  Weight decay
    (AdamW, arXiv:1711.05101) applies to matrices only, not to biases, norms and single vectors.
    """

    def __init__(self, model: nn.Module, settings: LoopConfig) -> None:
        self._model = model
        learned = {n: p for n, p in model.named_parameters() if p.requires_grad}
        blocks = {n: p for n, p in learned.items() if ".blocks." in n and p.ndim == 2}
        if settings.optimizer == "adamw":
            blocks = {}
        rest = [p for n, p in learned.items() if n not in blocks]
        groups = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(
            groups, lr=settings.learning_rate, betas=(0.9, settings.beta2), fused=True
        )
        self._parts: list[tuple[torch.optim.Optimizer, float]] = [(self.adamw, settings.learning_rate)]
        self._muon: torch.optim.Muon | None = None
        if blocks:
            self._muon = torch.optim.Muon(
                blocks.values(),
                lr=settings.muon_learning_rate,
                weight_decay=settings.weight_decay,
                # Updates as large as AdamW's, whatever the matrix's shape (arXiv:2502.16982).
                adjust_lr_fn="match_rms_adamw",
            )
            self._parts.append((self._muon, settings.muon_learning_rate))

    def is_muons(self, parameter: Tensor) -> bool:
        """Whether Muon moves a parameter; else AdamW does."""
        return any(own is parameter for own in self.muon_group.get("params", []))

    @property
    def muon_group(self) -> dict[str, Any]:
        """Muon's settings and parameters; empty without any."""
        return self._muon.param_groups[0] if self._muon else {}

    def state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """The moments of a parameter, by name, as they are kept: empty before its first gradient."""
        part = self._muon if self._muon and self.is_muons(parameter) else self.adamw
        state: dict[str, Tensor] = part.state[parameter]
        return state

    def step(self, factor: float) -> None:
        """Update the weights at ``factor`` times the peak learning rates, and clear the gradients."""
        self._set_rates(factor)
        for part, _ in self._parts:
            part.step()
            part.zero_grad(set_to_none=True)

    def _set_rates(self, factor: float) -> None:
        for part, peak in self._parts:
            for group in part.param_groups:
                group["lr"] = peak * factor

    def tensors(self) -> dict[str, Tensor]:
        """The state of each parameter, as ``<parameter>/<moment>``."""
        return {
            f"{name}/{moment}": value
            for name, parameter in self._model.named_parameters()
            for part, _ in self._parts
            for moment, value in part.state.get(parameter, {}).items()
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what :meth:`tensors` returned."""
        owner = {p: part for part, _ in self._parts for group in part.param_groups for p in group["params"]}
        parameters = dict(self._model.named_parameters())
        for key, value in tensors.items():
            name, _, moment = key.rpartition("/")
            parameter = parameters[name]
            # AdamW's fused kernel needs its step counter on the parameter's device.
            owner[parameter].state[parameter][moment] = value.to(parameter.device)


def step_together(optimisers: Sequence[Optimiser], factors: Sequence[float]) -> None:
    """:meth:`Optimiser.step` of several models at once, each at its own ``factor``.

    Parameters of equal rates are moved by one call, whatever model they are of; Muon's matrices of one shape
    are orthogonalised as one batch.
    """
    for optimiser, factor in zip(optimisers, factors, strict=True):
        optimiser._set_rates(factor)
    _step_adamw([optimiser.adamw for optimiser in optimisers])
    _step_muon([optimiser._muon for optimiser in optimisers if optimiser._muon is not None])
    for optimiser in optimisers:
        for part, _ in optimiser._parts:
            part.zero_grad(set_to_none=True)


def _with_gradient(parts: Sequence[torch.optim.Optimizer]) -> Iterator[tuple[dict[str, Any], Tensor, Any]]:
    """Group, parameter and state of all that have a gradient."""
    for part in parts:
        for group in part.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    yield group, parameter, part.state[parameter]


@torch.no_grad()
def _step_adamw(parts: Sequence[torch.optim.AdamW]) -> None:
    # Parameters, gradients, first and second moments, counts of updates.
    alike: dict[tuple[Any, ...], tuple[list[Tensor], ...]] = defaultdict(lambda: ([], [], [], [], []))
    for group, parameter, state in _with_gradient(parts):
        if not state:  # as AdamW's fused kernel makes it
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        lists = alike[group["lr"], *group["betas"], group["weight_decay"], group["eps"]]
        values = (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"], state["step"])
        for collected, value in zip(lists, values, strict=True):
            collected.append(value)
    for (rate, beta1, beta2, decay, eps), (parameters, gradients, first, second, steps) in alike.items():
        adamw(
            parameters, gradients, first, second, [], steps,
            fused=True, amsgrad=False, maximize=False, beta1=beta1, beta2=beta2, lr=rate,
            weight_decay=decay, eps=eps,
        )  # fmt: skip


@torch.no_grad()
def _step_muon(parts: Sequence[torch.optim.Muon]) -> None:
    """The arithmetic of ``torch.optim.Muon`` with Nesterov momentum, in its order."""
    by_shape: dict[torch.Size, list[tuple[dict[str, Any], Tensor, Tensor]]] = defaultdict(list)
    for group, parameter, state in _with_gradient(parts):
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        by_shape[parameter.shape].append((group, parameter, state["momentum_buffer"]))
    for (rows, columns), members in by_shape.items():
        first = members[0][0]  # what is not a rate is equal in all
        momenta = [momentum for _, _, momentum in members]
        gradients = [p.grad for _, p, _ in members if p.grad is not None]
        torch._foreach_lerp_(momenta, gradients, 1 - first["momentum"])
        ahead = torch.stack(torch._foreach_lerp(gradients, momenta, first["momentum"]))
        updates = orthogonalised(ahead, first["ns_coefficients"], first["ns_steps"], first["eps"])
        alike: dict[tuple[float, float], tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
        for (group, parameter, _), update in zip(members, updates.float(), strict=True):
            parameters, theirs = alike[group["lr"], group["weight_decay"]]
            parameters.append(parameter)
            theirs.append(update)
        for (rate, decay), (parameters, theirs) in alike.items():
            torch._foreach_mul_(parameters, 1 - rate * decay)
            # adjust_lr_fn="match_rms_adamw"
            torch._foreach_add_(parameters, theirs, alpha=-rate * (0.2 * math.sqrt(max(rows, columns))))


# Of at most so many rows and columns: for a batch of such products torch may take a kernel whose roundings
# are others than those of one product.
_SMALL = 16


def orthogonalised(
    matrices: Tensor, coefficients: tuple[float, float, float], iterations: int, eps: float
) -> Tensor:
    """Matrices (n, rows, columns) with singular values near one, by Newton-Schulz iterations in bf16.

    That of ``torch.optim.Muon`` (Jordan et al., 2024), for many matrices at once.
    """
    if len(matrices) > 1 and matrices.device.type == "cpu" and min(matrices.shape[1:]) <= _SMALL:
        each = [orthogonalised(matrix[None], coefficients, iterations, eps) for matrix in matrices]
        return torch.cat(each)
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16()
    x = x.mT if tall else x
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
