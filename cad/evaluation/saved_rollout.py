"""A roll-out that was stopped, on disk: what it takes to go on as if nothing had been.

Environments are not stored: their state follows from the actions (:mod:`cad.evaluation.replay`).  The
model's memory is.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from cad.checksums import SET_ASIDE, is_missing, no_file, read_bytes, set_aside
from cad.models.blocks.transformer import Plain
from cad.models.memory import Memory
from cad.storage import atomic_path

_MEMORY = "memory."


@dataclass(frozen=True)
class SavedRollout:
    """The state before a step.

    ``actions`` are (steps, B); ``memory`` has the arrays of the model's memory by name;
    ``compression_steps`` and ``chosen`` are (B, most compressions), as in
    :class:`~cad.evaluation.rollout.RolloutResult`; ``seconds`` were spent until here.
    """

    actions: npt.NDArray[Any]
    memory: Mapping[str, Tensor]
    compression_steps: npt.NDArray[np.int32]
    chosen: npt.NDArray[np.bool_]
    seconds: float


@dataclass(frozen=True)
class RolloutFile:
    """Where a roll-out is saved: at most every ``every`` seconds, and when it is stopped.

    ``owner`` says whose it is, for example a stage's name; a file of another one is not used.
    """

    path: Path
    owner: str
    every: float = 30.0

    def save(self, rollout: SavedRollout) -> None:
        """Write it; raises :class:`CadError` on a full disk."""
        tensors = {f"{_MEMORY}{name}": value for name, value in rollout.memory.items()}
        tensors |= {
            "actions": torch.from_numpy(rollout.actions),
            "compression_steps": torch.from_numpy(rollout.compression_steps),
            "chosen": torch.from_numpy(rollout.chosen),
            "seconds": torch.tensor(rollout.seconds, dtype=torch.float64),
        }
        data = safetensors.torch.save(tensors, {"owner": self.owner})
        with atomic_path(self.path) as temporary:
            temporary.write_bytes(hashlib.sha256(data).digest() + data)

    def load(self) -> SavedRollout | None:
        """What was saved; None where nothing was.  A damaged file is set aside: the roll-out starts anew."""
        if is_missing(self.path):
            return None
        whole = read_bytes(self.path) if no_file(self.path) is None else b""
        checksum, data = whole[:32], whole[32:]
        if hashlib.sha256(data).digest() != checksum:
            moved = set_aside(self.path, self.path.parent / SET_ASIDE)
            log = logging.getLogger(__name__)
            log.warning("%s is damaged (now %s): the roll-out starts anew", self.path, moved)
            return None
        tensors = safetensors.torch.load(data)
        if _owner(data) != self.owner:
            return None
        return SavedRollout(
            tensors["actions"].numpy(),
            {name.removeprefix(_MEMORY): t for name, t in tensors.items() if name.startswith(_MEMORY)},
            tensors["compression_steps"].numpy(),
            tensors["chosen"].numpy(),
            float(tensors["seconds"]),
        )

    def remove(self) -> None:
        """Forget it: the roll-out has ended."""
        self.path.unlink(missing_ok=True)


def _owner(data: bytes) -> object:
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end])["__metadata__"]["owner"]


def memory_arrays(memory: Memory) -> dict[str, Tensor]:
    """Copies of all arrays and numbers that a memory consists of, by name; its model is left out."""
    arrays: dict[str, Tensor] = {}
    _take(memory, "", arrays)
    return arrays


def restore_memory(memory: Memory, arrays: Mapping[str, Tensor]) -> None:
    """Make a new memory equal to that of :func:`memory_arrays`."""
    _give(memory, "", arrays)


def _take(value: object, name: str, arrays: dict[str, Tensor]) -> None:
    if isinstance(value, Tensor):
        arrays[name] = value.detach().cpu().clone().contiguous()
    elif isinstance(value, np.ndarray):
        arrays[name] = torch.from_numpy(value.copy())
    elif isinstance(value, int):
        arrays[name] = torch.tensor(value)
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            _take(part, f"{name}.{number}", arrays)
    elif _is_state(value):
        for key, part in vars(value).items():
            _take(part, f"{name}.{key}" if name else key, arrays)


def _give(value: Any, name: str, arrays: Mapping[str, Tensor]) -> Any:
    """``value`` with what is stored for it."""
    if isinstance(value, Tensor):
        # Never in place: first latents may be the model's own weights.
        return arrays[name].to(value.device)
    if isinstance(value, np.ndarray):
        return arrays[name].numpy()
    if isinstance(value, int):
        return type(value)(arrays[name].item())
    if isinstance(value, list | tuple):
        return type(value)(_give(part, f"{name}.{number}", arrays) for number, part in enumerate(value))
    if _is_state(value):
        for key, part in list(vars(value).items()):
            setattr(value, key, _give(part, f"{name}.{key}" if name else key, arrays))
    return value


def _is_state(value: object) -> bool:
    """An object of ours with state of its own: no network, no settings."""
    ours = type(value).__module__.startswith("cad.") and hasattr(value, "__dict__")
    return ours and not isinstance(value, nn.Module | Plain | BaseModel)
