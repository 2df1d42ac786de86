"""``--pack auto``: how many trainings of one shape fit into memory together, by a cautious estimate."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from cad.envs.registry import task_family
from cad.errors import UsageError, printable
from cad.experiments.run.resources import pick_device
from cad.schema import Config
from cad.training.learner import build_model

PackSize = int | Literal["auto"]

MOST = 64
"""Trainings of a pack whose size memory decides: more bring little, and a pack ends with its slowest one."""
PROCESS_BYTES = 2**30
"""What a process takes before its first model: Python, torch, the histories of small tasks."""
# With others beside it, which share what they have imported; each has histories of its own.
_BESIDE_BYTES = 2**29
_GPU_PROCESS_BYTES = 3 * 2**30

# Weights, gradients, two moments, and the stack's copies of the weights and gradients.
_COPIES_OF_WEIGHTS = 6
# An element of a product's result takes between a head's width and the model's of multiply-accumulates;
# beside it, another one is kept for the backward pass (norms, activations, masks).  With 24 the estimate is
# 1.4 to 4.4 times what the models of benchmarks/packing.py were measured to add on a CPU.
_WORK_OF_AN_ELEMENT, _ELEMENTS_KEPT = 24, 2
_SHARE_OF_CPU = 0.5
SHARE_OF_GPU = 0.8
"""What trainings may take of a GPU's memory."""


def pack_size(given: object) -> PackSize:
    """``8`` or ``auto``, from the command line or a script.  Raises :class:`UsageError` for anything else."""
    text = str(given)
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(
            f"--pack {printable(text, 40)}: give a number from 1, or auto: as many as memory holds"
        )
    return int(text)


def processes_bytes(n: int, *, gpu: bool) -> int:
    """What ``n`` processes of a task take of the machine's memory by themselves, with a ``gpu`` CUDA too."""
    return n * _GPU_PROCESS_BYTES if gpu else PROCESS_BYTES + (n - 1) * _BESIDE_BYTES


def training_bytes(config: Config) -> float:
    """About what a training adds to a pack, in bytes: rather too much.

    Six times the weights, and of a batch twice the results of all products, in float32.
    """
    key = repr((config.model, config.train, config.pretrain, task_family(config.env).spaces))
    if key not in _known_bytes:
        _known_bytes[key] = _training_bytes(config)
    return _known_bytes[key]


_known_bytes: dict[str, float] = {}  # a model is built to count its weights


def _training_bytes(config: Config) -> float:
    with torch.random.fork_rng():
        weights = sum(weight.numel() for weight in build_model(config).parameters())
    batch = config.train.batch_size / config.train.gradient_accumulation
    work = batch * config.spec.window_work(config.model, config.others) * 1e6
    return 4 * (_COPIES_OF_WEIGHTS * weights + _ELEMENTS_KEPT * work / _WORK_OF_AN_ELEMENT)


def size_within(config: Config, most: int, memory: float | None) -> int:
    """How many trainings like this one a pack may have: ``most``, or as many as ``memory`` bytes hold."""
    return most if memory is None else max(1, min(most, int(memory / training_bytes(config))))


def local_limit(pack: PackSize, device: str, processes: int) -> tuple[int, float | None]:
    """The most trainings of a pack on this machine, and the bytes that they may take; None: any."""
    if pack != "auto":
        return pack, None
    place = pick_device(device)
    if place.type == "cuda":
        memory = SHARE_OF_GPU * torch.cuda.get_device_properties(place).total_memory
        return MOST, memory / processes
    return MOST, max(0.0, _SHARE_OF_CPU * _free_memory() / processes - PROCESS_BYTES)


def _free_memory() -> float:
    """Bytes that this process and others may still take, by the system and by its control group."""
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    known = [float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        limit = "max"
    if limit != "max":
        known.append(float(limit) - float(used))
    return min(known, default=4 * 2**30)
