"""Checkpoints: everything that an exact resume needs, written atomically and read without unpickling.

A checkpoint is a folder ``checkpoints/<step>`` with ``state.safetensors`` (weights, optimiser
moments, metric sums) and ``meta.json`` (step, checksum, seconds so far).  Learning rate, samples and
dropout masks are functions of the seed and the step, so that no scheduler, sampler or generator needs
to be stored.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from cad.checksums import (
    SET_ASIDE,
    DamagedFileError,
    read_bytes,
    read_sealed,
    require_file,
    set_aside,
    stage_remedy,
    write_sealed,
)
from cad.errors import CadError
from cad.storage import atomic_dir, disk_error, make_dirs, remove_leftovers, sha256_file

log = logging.getLogger(__name__)

FORMAT = 1
_META, _STATE = "meta.json", "state.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """State after ``step`` updates; ``seconds`` and ``supervised_actions`` count those so far.

    ``origin`` (plain data) records its provenance: config, engine, number of ranks.  ``best`` is the
    step of the best validation so far, and its value.
    """

    step: int
    seconds: float
    supervised_actions: int
    tensors: dict[str, Tensor]
    origin: dict[str, Any] = field(default_factory=dict)
    best: tuple[int, float] | None = None


def save_checkpoint(folder: Path, checkpoint: Checkpoint, run_id: str, keep: int) -> None:
    """Write a checkpoint into ``folder``; keep the newest ``keep`` and the one of the best validation."""
    remove_leftovers(make_dirs(folder))
    with atomic_dir(folder / f"{checkpoint.step:08d}") as temporary:
        state = temporary / _STATE
        state.write_bytes(safetensors.torch.save(checkpoint.tensors))
        meta = {
            "format": FORMAT,
            "sealed": True,
            "run": run_id,
            "step": checkpoint.step,
            "seconds": checkpoint.seconds,
            "supervised_actions": checkpoint.supervised_actions,
            "origin": checkpoint.origin,
            "best": checkpoint.best,
            "sha256": sha256_file(state),
        }
        write_sealed(temporary / _META, meta)
    best_step = checkpoint.best[0] if checkpoint.best else None
    for old in _steps(folder)[:-keep]:
        if int(old.name) != best_step:
            shutil.rmtree(old, ignore_errors=True)


def load_newest(folder: Path, run_id: str, *, set_damaged_aside: bool = False) -> Checkpoint | None:
    """Load the newest intact checkpoint; None without one.  Damaged ones are passed over with a warning.

    A run that goes on sets them aside, in ``set-aside`` beside ``folder``: if they stayed, they would count
    as the newest, and intact ones would be deleted in their place.

    Raises :class:`CadError` for a checkpoint that cannot be read (it may be intact), of another run, or of
    a newer version of the program.
    """
    for path in reversed(_steps(folder)):
        try:
            return _load(path, run_id)
        except _DamagedError as error:
            log.warning("checkpoint %s is damaged (%s); taking the previous one, if any", path, error)
            if set_damaged_aside:
                set_aside(path, folder.parent / SET_ASIDE)
    return None


def load_checkpoint(folder: Path, step: int, run_id: str) -> Checkpoint:
    """Load the checkpoint of ``step``; :class:`CadError` if it is damaged or belongs to another run."""
    path = folder / f"{step:08d}"
    try:
        return _load(path, run_id)
    except _DamagedError as error:
        raise CadError(
            f"checkpoint {path} is damaged on this node, but not on the first rank's ({error}); "
            "is that folder the same on all nodes?"
        ) from error


def damaged_checkpoints(folder: Path, run_id: str) -> list[tuple[Path, str]]:
    """Checkpoints that are not what was written, and why; :class:`CadError` as of :func:`load_newest`."""
    damaged = []
    for path in _steps(folder):
        try:
            _load(path, run_id)
        except _DamagedError as error:
            damaged.append((path, str(error)))
    return damaged


class _DamagedError(Exception):
    """A checkpoint was read whole and differs from what was written."""


def _load(path: Path, run_id: str) -> Checkpoint:
    try:
        names = {entry.name for entry in path.iterdir()}
    except NotADirectoryError as error:
        raise _DamagedError("a file is in its place") from error
    except OSError as error:
        raise disk_error(error, path, "read") from error
    if _META not in names:
        raise _DamagedError(f"{_META} is missing")
    try:
        meta = read_sealed(path / _META, "", always_sealed=("sealed",))
        version = int(meta["format"])
    except DamagedFileError as error:
        raise _DamagedError(f"{_META}: {error.why}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise _DamagedError(f"{_META}: {error}") from error
    if version > FORMAT:
        raise CadError(f"{path} was written by a newer version of cad; update cad to resume from it")
    if _STATE not in names:
        raise _DamagedError(f"{_STATE} is missing")
    try:
        if meta["step"] != int(path.name):
            raise _DamagedError(f"{_META} names step {meta['step']}")
        require_file(path / _STATE, "")
        state = read_bytes(path / _STATE)
        if hashlib.sha256(state).hexdigest() != meta["sha256"]:
            raise _DamagedError(f"{_STATE} does not match its checksum")
        run = str(meta["run"])
        checkpoint = Checkpoint(
            meta["step"],
            float(meta["seconds"]),
            int(meta["supervised_actions"]),
            safetensors.torch.load(state),
            meta.get("origin", {}),  # earlier versions wrote none
            (int(best[0]), float(best[1])) if (best := meta.get("best")) else None,
        )
    except DamagedFileError as error:
        raise _DamagedError(f"{_STATE}: {error.why}") from error
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise _DamagedError(f"{type(error).__name__}: {error}") from error
    if run != run_id:
        raise CadError(f"{path} belongs to another config; choose another folder for this run")
    return checkpoint


def newest_step(folder: Path, run_id: str) -> int | None:
    """The update of the newest checkpoint that is what was written; None where there is none.

    Raises :class:`CadError` as :func:`load_newest` does.
    """
    damaged = {path for path, _ in damaged_checkpoints(folder, run_id)}
    return max((int(path.name) for path in _steps(folder) if path not in damaged), default=None)


def newest_meta(folder: Path) -> dict[str, Any]:
    """Read the newest checkpoint's ``meta.json`` without its tensors; empty without a checkpoint."""
    steps = [path for path in _steps(folder) if path.is_dir()]
    return read_sealed(steps[-1] / _META, stage_remedy(folder.parent)) if steps else {}


def _steps(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.isdigit())
