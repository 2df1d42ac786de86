"""Results on disk: one small HDF5 file per evaluation, readable with plain h5py."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from cad.checksums import require_file, stage_remedy
from cad.errors import CadError
from cad.evaluation.rollout import RolloutResult
from cad.hdf5 import UNREADABLE, open_hdf5, require_owner, unreadable
from cad.storage import atomic_path

FORMAT = 4  # 1 had no compression steps, 2 no facts, 3 no lengths


def save_results(path: Path, result: RolloutResult, stage: str | None = None) -> None:
    """Write all of ``result``, atomically; datasets have the names and shapes of its fields.

    ``stage`` is the name of the evaluation whose file it is.
    """
    # Built in memory: HDF5 aborts the process if the disk is full when it closes a file.
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", track_order=True) as file:
        # As early a format as has all that is there: without facts and lengths version 0.1 reads it.
        file.attrs["format"] = 4 if result.lengths is not None else 3 if result.facts is not None else 2
        if stage is not None:
            file.attrs["stage"] = stage
        file.attrs["horizon"] = result.horizon
        file.attrs["state_bytes"] = result.state_bytes
        file.attrs["seconds"] = result.seconds
        file.create_dataset("task_ids", data=np.array(result.task_ids, dtype=np.int64), fletcher32=True)
        file.create_dataset("returns", data=result.returns, compression="gzip", shuffle=True, fletcher32=True)
        file.create_dataset("compressions", data=result.compressions, fletcher32=True)
        for name, data in (
            ("compression_steps", result.compression_steps), ("chosen", result.chosen),
            ("facts", result.facts), ("optima", result.optima), ("lengths", result.lengths),
        ):  # fmt: skip
            # HDF5 allows no filters on empty datasets.
            filters = {"compression": "gzip", "shuffle": True, "fletcher32": True}
            if data is not None:
                file.create_dataset(name, data=data, **(filters if data.size else {}))
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def load_results(path: Path, stage: str | None = None) -> RolloutResult:
    """Read what :func:`save_results` wrote.

    Raises :class:`CadError` for a file that is missing, damaged, or that of another stage than ``stage``.
    """
    remedy = stage_remedy(path.parent)
    require_file(path, remedy)
    with open_hdf5(path, remedy) as file:
        try:
            if int(file.attrs["format"]) > FORMAT:
                raise CadError(f"{path} was written by a newer version of cad; update cad to read it")
            require_owner(file, path, stage)
            return RolloutResult(
                task_ids=tuple(int(task) for task in file["task_ids"][:]),
                returns=file["returns"][:],
                compressions=file["compressions"][:],
                horizon=int(file.attrs["horizon"]),
                state_bytes=int(file.attrs["state_bytes"]),
                seconds=float(file.attrs["seconds"]),
                compression_steps=_steps_of_compressions(file),
                chosen=file["chosen"][:] if "chosen" in file else None,
                facts=file["facts"][:] if "facts" in file else None,
                optima=file["optima"][:] if "optima" in file else None,
                lengths=file["lengths"][:] if "lengths" in file else None,
            )
        except UNREADABLE as error:
            raise unreadable(error, path, remedy) from error


def _steps_of_compressions(file: h5py.File) -> npt.NDArray[np.int32] | None:
    """None in files of format 1; up to version 0.1 the dataset's name was ``moments``."""
    for name in ("compression_steps", "moments"):
        if name in file:
            steps: npt.NDArray[np.int32] = file[name][:]
            return steps
    return None
