"""ZeRO: ranks share out optimiser state (1), gradients too (2), weights too (3) (arXiv:1910.02054).

DeepSpeed's own checkpoints are pickles and belong to one number of ranks; state leaves and enters
here whole, parameter by parameter, so that any engine can go on with it.
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

from cad.config.schema import TrainConfig
from cad.histories.batch import Batch
from cad.training.engines.protocol import Update, mean_update
from cad.training.objective import Objective
from cad.training.optimiser import Optimiser
from cad.training.ranks import Ranks

_MOMENTS = ("exp_avg", "exp_avg_sq")

# ZeRO-3 keeps smaller parameters whole: fetching them costs more than they weigh (DeepSpeed's default).
WHOLE_BELOW = 100_000
# Elements that travel together: 80 MB.  A buffer of that size is allocated (DeepSpeed takes 2 GB), so no more
# than the model has.
_BUCKET = 20_000_000


class DeepSpeedEngine:
    """Trains a copy of the model that it is given; :meth:`collect` brings the weights back."""

    def __init__(self, settings: TrainConfig, model: nn.Module, ranks: Ranks, device: torch.device) -> None:
        deepspeed = import_deepspeed(device)
        if not dist.is_initialized():  # one rank that met nobody
            os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
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
            self._engine.backward(outcome.loss)  # divided by the number of parts there
            columns.append(outcome.columns)
            supervised += outcome.supervised
            if self._stage == 0 and self._engine.is_gradient_accumulation_boundary():
                # There it clips without saying by how much.
                norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._settings.grad_clip)
            self._engine.step()
        if norm is None:
            norm = torch.as_tensor(self._engine.get_global_grad_norm(), dtype=torch.float32)
        return mean_update(norm.to(columns[0].device), columns, supervised)

    def collect(self) -> None:
        """See :meth:`~cad.training.engines.protocol.Engine.collect`."""
        whole = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                whole[name].copy_(self._whole(parameter))

    def _whole(self, parameter: nn.Parameter) -> Tensor:
        if self._stage < 3:
            return parameter
        from deepspeed.utils import safe_get_full_fp32_param

        found: Tensor = safe_get_full_fp32_param(parameter)
        return found

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
        # One count for all: a parameter that some updates did not reach has a lower one elsewhere.
        step = max(value for name, value in tensors.items() if name.endswith("/step"))
        for _, state in self._flat_states():
            state["step"].copy_(step)
        for name, parameter in self._parameters.items():
            for moment in _MOMENTS:
                self._put_back(parameter, tensors[f"{name}/{moment}"], moment)

    def _put_back(self, parameter: nn.Parameter, value: Tensor, moment: str) -> None:
        if self._stage < 3:
            from deepspeed.utils import safe_set_full_optimizer_state

            safe_set_full_optimizer_state(parameter, value, moment)
            return
        # The setter for whole tensors fails where ranks do not divide them; this takes a rank's part.
        from deepspeed.utils import safe_set_local_optimizer_state

        size = -(-value.numel() // self._ranks.size)
        padded = torch.zeros(size * self._ranks.size, dtype=value.dtype)
        padded[: value.numel()] = value.flatten()
        own = padded[self._ranks.rank * size : (self._ranks.rank + 1) * size]
        safe_set_local_optimizer_state(parameter, own, moment)

    def _create_states(self) -> None:
        """What AdamW does in its first update, done before it: state can then be put back at any time.

        DeepSpeed tells parameters where their state lies behind the first group's first update, and
        so misses that of the other groups.
        """
        for flat, state in self._flat_states():
            state["step"] = torch.zeros((), device=flat.device)
            state.update({moment: torch.zeros_like(flat) for moment in _MOMENTS})
        if self._stage < 3:
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _flat_states(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """The flattened parameters that AdamW sees on this rank, and its state of each."""
        zero = self._engine.optimizer
        flat = zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups
        for tensor in flat:
            yield tensor, zero.optimizer.state[tensor]


def import_deepspeed(device: torch.device) -> Any:
    """The package, told beforehand what it would find out by itself, at length."""
    # Else it looks for devices by itself, and says so.
    os.environ["DS_ACCELERATOR"] = device.type
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.WARNING)
    # Its own use of torch's names, once for every call.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    # Else a shared-memory transport is compiled for a minute, at the first start on every machine.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _deepspeed_config(settings: TrainConfig, ranks: int, module: nn.Module) -> dict[str, Any]:
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
            "stage3_param_persistence_threshold": WHOLE_BELOW,
        },
        # As in the other engines: weights stay fp32, and so do the gradients that travel.
        "torch_autocast": {
            "enabled": settings.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        "steps_per_print": None,
    }
