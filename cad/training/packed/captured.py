"""Packs on a GPU: a whole update of all models as one CUDA graph.

What a small model computes in an update is thousands of kernels of microseconds; launching them takes longer
than running them.  A graph launches all of them at once.  For that an update has to be the same computation
every time: windows are gathered from a few numbers on the device, segments of unequal lengths are padded, and
gradients are clipped, optimisers stepped and metrics summed for all models by the same operations.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cad.histories.together import Draws, WindowsTogether
from cad.histories.windows import WindowShape
from cad.models.network import SequenceModel
from cad.training.optimiser import orthogonalised
from cad.training.packed.stack import Stack, tensors_of
from cad.training.training import Training

log = logging.getLogger(__name__)

Key = tuple[WindowShape, bool]
"""What an update's graph depends on: the shape of its windows, and whether segments are padded."""


@dataclass(frozen=True)
class _Inputs:
    """What an update takes from the host, in tensors that stay where they are."""

    numbers: Tensor
    """(4, models, B) int64: which windows."""
    lengths: Tensor
    """(models,) int64: steps of their segments."""
    absent: Tensor
    """(models,) int64: segments that their burn-in lacks."""
    rates: Tensor
    """(2, models) float32: learning rates of AdamW and of Muon."""


class CapturedStack(Stack):
    """A :class:`Stack` whose updates are computed on the device, as CUDA graphs where there are any.

    Its numbers are those of a stack up to rounding; the optimisers' state of each model is a row of its
    tensors, so that updates whose windows do not fit into one shape are made by :class:`Stack`.
    """

    def __init__(self, trainings: Sequence[Training]) -> None:
        """The trainings are such that :meth:`fits`."""
        self._linked = False
        # None after the first update of that key.
        self._graphs: dict[Key, torch.cuda.CUDAGraph | None] = {}
        self._refused: set[Key] = set()
        # One for all that is captured: libraries keep memory for every stream they are called on.
        self._side: torch.cuda.Stream | None = None
        super().__init__(trainings, vmapped=True)

    @staticmethod
    def fits(trainings: Sequence[Training]) -> bool:
        """Whether updates of these trainings can be computed so."""
        no_masks = not any(
            isinstance(module, nn.Dropout) and module.p
            for training in trainings
            for module in training.model.modules()
        )
        whole = all(training.settings.gradient_accumulation == 1 for training in trainings)
        return no_masks and whole and WindowsTogether.fits([training.sampler for training in trainings])

    def load_optimiser_state(self, model: int, tensors: dict[str, Tensor]) -> None:
        """See :meth:`Stack.load_optimiser_state`."""
        super().load_optimiser_state(model, tensors)
        self._linked = False

    def optimiser_state(self, model: int) -> dict[str, Tensor]:
        """See :meth:`Stack.optimiser_state`; nothing of parameters that never had a gradient."""
        tensors = super().optimiser_state(model)
        moved = {key.rpartition("/")[0] for key, x in tensors.items() if x.any()}
        return {key: x for key, x in tensors.items() if key.rpartition("/")[0] in moved}

    def keep(self, models: Sequence[int]) -> None:
        """See :meth:`Stack.keep`; the graphs' memory is free before anything else is done."""
        self._graphs.clear()
        super().keep(models)
        self._linked = False

    def update(self) -> None:
        """See :meth:`Stack.update`."""
        if not self._linked:
            self._link_state()
        draws = self._windows.draw([training.step for training in self._trainings])
        takes_padding = all(training.objective.takes_padding for training in self._trainings)
        if draws is None or (draws.padded and not takes_padding):
            super().update()
            return
        self._send(draws)
        self._run((draws.widest, draws.padded))
        windows, segments = draws.numbers.shape[2], draws.widest.length // draws.widest.segment_length
        of_each = zip(self._trainings, draws.lengths.tolist(), draws.absent.tolist(), strict=True)
        for training, length, absent in of_each:
            predictions = training.objective.predictions(windows, segments - draws.widest.burn_in, length)
            training.count(predictions, windows * (segments - absent) * length)

    # --- state -------------------------------------------------------------------------------

    def _link_state(self) -> None:
        """Make tensors of all models' optimisers and sums, and theirs rows of them."""
        self._graphs.clear()
        models = len(self._trainings)
        self._windows = WindowsTogether([training.sampler for training in self._trainings], self._device)
        self._before_burn_in = [
            f"{place}.{name}".removeprefix(".")
            for place, module in self._trainings[0].model.named_modules()
            if isinstance(module, SequenceModel)
            for name in module.before_burn_in
        ]
        self._moments: dict[str, dict[str, Tensor]] = {}
        named = [dict(training.model.named_parameters()) for training in self._trainings]
        for name, stacked in self._weights.items():
            if not stacked.requires_grad:
                continue
            matrix = self._optimisers[0].is_muons(named[0][name])
            like = {"momentum_buffer": stacked} if matrix else {"exp_avg": stacked, "exp_avg_sq": stacked}
            moments = {moment: torch.zeros_like(x, requires_grad=False) for moment, x in like.items()}
            if not matrix:
                moments["step"] = torch.zeros(models, device=self._device)
            for row, (optimiser, own) in enumerate(zip(self._optimisers, named, strict=True)):
                state = optimiser.state_of(own[name])
                for moment, x in moments.items():
                    if moment in state:
                        x[row].copy_(state[moment])
                    state[moment] = x[row]
            self._moments[name] = moments
        self._sums = torch.stack([training.sums.tensor for training in self._trainings])
        for training, sums in zip(self._trainings, self._sums, strict=True):
            training.sums.tensor = sums
        settings = [training.settings for training in self._trainings]
        self._clips, self._decays, self._betas = (
            torch.tensor([getattr(s, key) for s in settings], device=self._device)
            for key in ("grad_clip", "weight_decay", "beta2")
        )
        windows = self._trainings[0].sampler.batch_size
        self._inputs = _Inputs(
            torch.zeros(4, models, windows, dtype=torch.int64, device=self._device),
            torch.zeros(models, dtype=torch.int64, device=self._device),
            torch.zeros(models, dtype=torch.int64, device=self._device),
            torch.zeros(2, models, device=self._device),
        )
        self._linked = True

    def _send(self, draws: Draws) -> None:
        """Put what the host has drawn, and the learning rates, into the graphs' inputs."""
        factors = [training.rate_factor for training in self._trainings]
        settings = [training.settings for training in self._trainings]
        rates = np.array(
            [
                [s.learning_rate * factor for s, factor in zip(settings, factors, strict=True)],
                [s.muon_learning_rate * factor for s, factor in zip(settings, factors, strict=True)],
            ],
            dtype=np.float32,
        )
        inputs = self._inputs
        for target, values in (
            (inputs.numbers, draws.numbers), (inputs.lengths, draws.lengths),
            (inputs.absent, draws.absent), (inputs.rates, rates),
        ):  # fmt: skip
            source = torch.from_numpy(np.ascontiguousarray(values))
            if self._device.type == "cuda":
                source = source.pin_memory()
            target.copy_(source, non_blocking=True)

    # --- one update --------------------------------------------------------------------------

    def _run(self, key: Key) -> None:
        """Compute an update: at once the first time, which makes what is made once; then as a graph."""
        if self._device.type != "cuda" or key in self._refused:
            self._compute(key)
            return
        with torch.cuda.device(self._device):  # what a graph holds is what the current device is given
            self._launch(key)

    def _launch(self, key: Key) -> None:
        before = torch.cuda.current_stream()
        if self._side is None:
            self._side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        if key not in self._graphs:
            # Windows of a depth curriculum only grow: graphs of others would keep their memory for nothing.
            self._graphs = {other: graph for other, graph in self._graphs.items() if other[0] == key[0]}
            self._side.wait_stream(before)
            with torch.cuda.stream(self._side):
                self._compute(key)
            before.wait_stream(self._side)
            self._graphs[key] = None
            return
        graph = self._graphs[key] = self._graphs[key] or self._capture(key)
        if graph is None:
            self._compute(key)
        else:
            graph.replay()

    def _capture(self, key: Key) -> torch.cuda.CUDAGraph | None:
        """The graph of an update, which is not computed; None where there cannot be one."""
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Torch's own stream is one of the device where the process first captured a graph.
            with torch.cuda.graph(graph, stream=self._side):
                self._compute(key)
        except RuntimeError as error:  # a model that waits for the host
            torch.cuda.set_stream(before)  # a capture that fails may leave its own, not to be used again
            self._side = None
            reason = str(error).partition("\n")[0]
            log.warning("updates cannot be a CUDA graph (%s): they are computed call by call", reason)
            self._refused.add(key)
            return None
        return graph

    def _compute(self, key: Key) -> None:
        """Gather, forward, backward, clip, step, sum: all of it without the host."""
        inputs, (widest, padded) = self._inputs, key
        batch = self._windows.gather(inputs.numbers, inputs.lengths, inputs.absent, widest, padded)
        losses, columns, _ = self._forward(
            {**self._weights, **self._buffers}, self._trainings, list(tensors_of(batch)), batch
        )
        learned = {name: self._weights[name] for name in self._moments}
        found = torch.autograd.grad(losses.sum(), list(learned.values()), allow_unused=True)
        gradients = {name: g for name, g in zip(learned, found, strict=True) if g is not None}
        with torch.no_grad():
            norms = self._clip(gradients)
            rest = {n: g for n, g in gradients.items() if "exp_avg" in self._moments[n]}
            cut_off = {n: rest.pop(n) for n in self._before_burn_in if widest.burn_in and n in rest}
            self._step_adamw(rest, torch.ones_like(norms))
            self._step_adamw(cut_off, (inputs.absent == widest.burn_in).float())
            self._step_muon({n: g for n, g in gradients.items() if "exp_avg" not in self._moments[n]})
            counts = torch.ones_like(norms)
            self._sums += torch.cat([torch.stack([counts, norms], dim=1), columns], dim=1).double()

    def _clip(self, gradients: dict[str, Tensor]) -> Tensor:
        """Scale the gradients in place as ``clip_grad_norm_`` does; the norms (models,) before that."""
        each = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients.values()])
        norms: Tensor = torch.linalg.vector_norm(each, dim=0)
        scales = (self._clips / (norms + 1e-6)).clamp(max=1)
        for g in gradients.values():
            g.mul_(_along(scales, g))
        return norms

    def _step_adamw(self, gradients: dict[str, Tensor], moved: Tensor) -> None:
        """AdamW (arXiv:1711.05101) as ``torch.optim.AdamW`` has it.

        ``moved`` (models,) is 1, or 0 for models that have no gradients: theirs here are zeros.
        """
        if not gradients:
            return
        steps = [self._moments[name]["step"] for name in gradients]
        torch._foreach_add_(steps, [moved] * len(steps))
        counts = torch.stack(steps).clamp(min=1)  # (parameters, models); not 0 before a first gradient
        rates, epsilon = self._inputs.rates[0] * moved, 1e-8
        kept, to_first, to_second = 1 - rates * self._decays, 0.1 * moved, (1 - self._betas) * moved
        sizes = rates / (1 - 0.9**counts)
        corrections = (1 - self._betas**counts).sqrt()
        for (name, g), size, correction in zip(gradients.items(), sizes, corrections, strict=True):
            weight, moments = self._weights[name].detach(), self._moments[name]
            first, second = moments["exp_avg"], moments["exp_avg_sq"]
            if weight.ndim > 2:  # of one model: a matrix
                weight.mul_(_along(kept, g))
            first.lerp_(g, _along(to_first, g))
            second.lerp_(g * g, _along(to_second, g))
            weight.sub_(first / (second.sqrt() / _along(correction, g) + epsilon) * _along(size, g))

    def _step_muon(self, gradients: dict[str, Tensor]) -> None:
        """As :func:`~cad.training.optimiser.step_together`: matrices of one shape are one batch."""
        rates, group = self._inputs.rates[1], self._optimisers[0].muon_group
        by_shape: dict[torch.Size, list[str]] = defaultdict(list)
        for name, g in gradients.items():
            by_shape[g.shape].append(name)
        for (models, rows, columns), names in by_shape.items():
            ahead = []
            for name in names:
                momentum = self._moments[name]["momentum_buffer"]
                momentum.lerp_(gradients[name], 1 - group["momentum"])
                ahead.append(torch.lerp(gradients[name], momentum, group["momentum"]))
            updates = orthogonalised(
                torch.cat(ahead), group["ns_coefficients"], group["ns_steps"], group["eps"]
            )
            scale = 0.2 * math.sqrt(max(rows, columns))  # adjust_lr_fn="match_rms_adamw"
            for name, update in zip(names, torch.split(updates.float(), models), strict=True):
                weight = self._weights[name].detach()
                weight.mul_(_along(1 - rates * self._decays, weight))
                weight.sub_(update * _along(rates * scale, weight))


def _along(values: Tensor, like: Tensor) -> Tensor:
    """A number for each model (models,), to be broadcast over its tensor of ``like`` (models, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def stack_of(trainings: Sequence[Training], *, vmapped: bool) -> Stack:
    """What computes the updates of a pack."""
    if vmapped and trainings[0].device.type == "cuda" and CapturedStack.fits(trainings):
        return CapturedStack(trainings)
    return Stack(trainings, vmapped=vmapped)
