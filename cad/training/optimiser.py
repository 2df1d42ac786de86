"""Optimisers with a warm-up and a cosine, and their state as named tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

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
        if blocks:
            muon = torch.optim.Muon(
                blocks.values(),
                lr=settings.muon_learning_rate,
                weight_decay=settings.weight_decay,
                # Updates as large as AdamW's, whatever the matrix's shape (arXiv:2502.16982).
                adjust_lr_fn="match_rms_adamw",
            )
            self._parts.append((muon, settings.muon_learning_rate))

    def step(self, factor: float) -> None:
        """Update the weights at ``factor`` times the peak learning rates, and clear the gradients."""
        for part, peak in self._parts:
            for group in part.param_groups:
                group["lr"] = peak * factor
            part.step()
            part.zero_grad(set_to_none=True)

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
