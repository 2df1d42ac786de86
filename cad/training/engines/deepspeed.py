"""ZeRO: ranks shard optimiser state (stage 1), gradients too (2), weights too (3) (arXiv:1910.02054).

DeepSpeed's own checkpoints are pickles and fit one number of ranks only.  This engine exchanges
unsharded state, parameter by parameter, so that any engine can resume from it.
"""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cad.config import LoopConfig
from cad.histories.batch import Batch
from cad.models.objective import Objective
from cad.training.engines.protocol import Update, mean_update
from cad.training.optimiser import Optimiser
from cad.training.ranks import Ranks

_MOMENTS = ("exp_avg", "exp_avg_sq")

# ZeRO-3 does not shard smaller parameters: fetching them costs more than they save (DeepSpeed's default).
UNSHARDED_BELOW = 100_000
# Elements reduced together: 80 MB.  A buffer of this size is allocated (DeepSpeed's default is 2 GB), so it
# is no larger than the model.
_BUCKET = 20_000_000


class DeepSpeedEngine:
    """Trains a copy of the given model; :meth:`collect` copies the weights back."""

    def __init__(self, settings: LoopConfig, model: nn.Module, ranks: Ranks, device: torch.device) -> None:
        deepspeed = import_deepspeed(device)
        if ranks.size == 1:  # what was inherited is left out
            os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
        if not dist.is_initialized():
            store = dist.HashStore()  # type: ignore[attr-defined]
            dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        deepspeed.init_distributed(auto_mpi_discovery=False, dist_init_required=False)
        self._settings = settings
        self._ranks = ranks
        self._stage = settings.zero
        self._model = model
        module = copy.deepcopy(model).to(device)
        self._optimiser = Optimiser(module, settings)
        self._engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=self._optimiser.adamw,
            config=_deepspeed_config(settings, ranks.size, module),
        )
        self._parameters: dict[str, nn.Parameter] = {
            name: p for name, p in module.named_parameters() if p.requires_grad
        }
        if self._stage:
            self._create_states()

    def update(self, parts: Sequence[Batch], objective: Objective, factor: float) -> Update:
        """See :meth:`~cad.training.engines.protocol.Engine.update`."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * factor
        columns, supervised = [], 0
        norm = None
        for part in parts:
            outcome = objective(self._engine(part), part)
            self._engine.backward(outcome.loss)  # DeepSpeed divides it by the number of parts
            columns.append(outcome.columns)
            supervised += outcome.supervised
            if self._stage == 0 and self._engine.is_gradient_accumulation_boundary():
                # DeepSpeed would clip, but not report the norm.
                norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._settings.grad_clip)
            self._engine.step()
        if norm is None:
            norm = torch.as_tensor(self._engine.get_global_grad_norm(), dtype=torch.float32)
        return mean_update(norm.to(columns[0].device), columns, supervised)

    def collect(self) -> None:
        """See :meth:`~cad.training.engines.protocol.Engine.collect`."""
        targets = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                targets[name].copy_(self._unsharded(parameter))

    def _unsharded(self, parameter: nn.Parameter) -> Tensor:
        if self._stage < 3:
            return parameter
        from deepspeed.utils import safe_get_full_fp32_param

        weights: Tensor = safe_get_full_fp32_param(parameter)
        return weights

    def optimiser_state(self) -> dict[str, Tensor]:
        """See :meth:`~cad.training.engines.protocol.Engine.optimiser_state`."""
        if self._stage == 0:
            return self._optimiser.tensors()
        from deepspeed.utils import safe_get_full_optimizer_state

        step = next(state["step"] for _, state in self._flat_states())
        tensors = {}
        for name, parameter in self._parameters.items():
            tensors[f"{name}/step"] = step.clone()
            for moment in _MOMENTS:
                tensors[f"{name}/{moment}"] = safe_get_full_optimizer_state(parameter, moment)
        return tensors

    def load_optimiser_state(self, tensors: dict[str, Tensor]) -> None:
        """See :meth:`~cad.training.engines.protocol.Engine.load_optimiser_state`."""
        if self._stage == 0:
            self._optimiser.load_tensors(tensors)
            return
        # ZeRO has one count for all parameters; other engines count fewer for one that some updates skipped.
        step = max(value for name, value in tensors.items() if name.endswith("/step"))
        for _, state in self._flat_states():
            state["step"].copy_(step)
        for name, parameter in self._parameters.items():
            for moment in _MOMENTS:
                self._restore(parameter, tensors[f"{name}/{moment}"], moment)

    def _restore(self, parameter: nn.Parameter, value: Tensor, moment: str) -> None:
        if self._stage < 3:
            from deepspeed.utils import safe_set_full_optimizer_state

            safe_set_full_optimizer_state(parameter, value, moment)
            return
        # The setter for full tensors fails for sizes that ranks do not divide; this one takes a rank's shard.
        from deepspeed.utils import safe_set_local_optimizer_state

        size = -(-value.numel() // self._ranks.size)
        padded = torch.zeros(size * self._ranks.size, dtype=value.dtype)
        padded[: value.numel()] = value.flatten()
        own = padded[self._ranks.rank * size : (self._ranks.rank + 1) * size]
        safe_set_local_optimizer_state(parameter, own, moment)

    def _create_states(self) -> None:
        """Create AdamW's state before its first update, so that it can be restored at any time.

        DeepSpeed links parameters to their state after the first group's first update, when the other
        groups have no state yet.
        """
        for flat, state in self._flat_states():
            state["step"] = torch.zeros((), device=flat.device)
            state.update({moment: torch.zeros_like(flat) for moment in _MOMENTS})
        if self._stage < 3:
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _flat_states(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """The flattened parameters that AdamW updates on this rank, each with its state."""
        zero = self._engine.optimizer
        flat = zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups
        for tensor in flat:
            yield tensor, zero.optimizer.state[tensor]


def import_deepspeed(device: torch.device) -> Any:
    """Import the package quietly, and without its slow checks of the machine."""
    # Otherwise it searches for devices and logs what it does.
    os.environ["DS_ACCELERATOR"] = device.type
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.WARNING)
    # DeepSpeed uses deprecated names of torch and would warn at every call.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    # Otherwise it compiles a shared-memory transport, for a minute, at the first start on every machine.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _deepspeed_config(settings: LoopConfig, ranks: int, module: nn.Module) -> dict[str, Any]:
    parts = settings.gradient_accumulation
    bucket = min(_BUCKET, sum(p.numel() for p in module.parameters()))
    return {
        "train_batch_size": settings.batch_size,
        "train_micro_batch_size_per_gpu": settings.batch_size // (ranks * parts),
        "gradient_accumulation_steps": parts,
        "gradient_clipping": settings.grad_clip if settings.zero else 0.0,
        "zero_optimization": {
            "stage": settings.zero,
            "reduce_bucket_size": bucket,
            "stage3_param_persistence_threshold": UNSHARDED_BELOW,
        },
        # As in the other engines, weights and reduced gradients stay in fp32.
        "torch_autocast": {
            "enabled": settings.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        "steps_per_print": None,
    }
