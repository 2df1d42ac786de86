"""The actions of an evaluation on disk: one byte per step, from which roll-outs can be replayed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from cad.checksums import require_file, stage_remedy
from cad.errors import CadError
from cad.evaluation.rollout import RolloutResult
from cad.hdf5 import UNREADABLE, open_hdf5, require_owner, unreadable
from cad.storage import atomic_path

FORMAT = 1


def save_actions(path: Path, result: RolloutResult, stage: str | None = None) -> None:
    """Write ``actions`` (tasks, roll-outs, steps) and ``task_ids``, atomically.

    ``stage`` is the name of the evaluation whose file it is.
    """
    if result.actions is None:
        raise ValueError("the result was read from a file and has no actions")
    # Built in memory: HDF5 aborts the process if the disk is full when it closes a file.
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", track_order=True) as file:
        file.attrs["format"] = FORMAT
        if stage is not None:
            file.attrs["stage"] = stage
        file.create_dataset("task_ids", data=np.array(result.task_ids, dtype=np.int64), fletcher32=True)
        # One chunk per task: reading one task is cheap.
        chunks = (1, *result.actions.shape[1:])
        file.create_dataset(
            "actions", data=result.actions, chunks=chunks, compression="gzip", fletcher32=True
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def load_actions(path: Path, task_ids: Sequence[int], stage: str | None = None) -> npt.NDArray[np.uint8]:
    """Actions (tasks, roll-outs, steps) of ``task_ids``; nothing else of the file is read.

    Raises :class:`CadError` that names a file that is missing, damaged, or that of another stage than
    ``stage``, or a task that the file lacks.
    """
    remedy = stage_remedy(path.parent)
    require_file(path, remedy)
    with open_hdf5(path, remedy) as file:
        try:
            if int(file.attrs["format"]) > FORMAT:
                raise CadError(f"{path} was written by a newer version of cad; update cad to read it")
            require_owner(file, path, stage)
            stored = file["task_ids"][:].tolist()
            missing = sorted(set(task_ids) - set(stored))
            if missing:
                raise CadError(f"{path} has no task {missing[0]}; it has {', '.join(map(str, stored))}")
            return np.stack([file["actions"][stored.index(task)] for task in task_ids])
        except UNREADABLE as error:
            raise unreadable(error, path, remedy) from error
