"""Open TensorBoard on an experiment, whose trainings it shows under their names in the report.

It reads a folder of links to the event files of the stages.  The record of a training is its
``metrics.jsonl``; the event files are written at the same time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from cad.experiments.plan.directory import StageDirectory, StageFile
from cad.experiments.plan.experiment import Experiment
from cad.storage import disk_error, make_dirs

_LONGEST = 200  # of a name; file systems take 255 bytes


def link_boards(experiment: Experiment) -> Path:
    """Rebuild the experiment's ``tensorboard/`` folder; returns its path.

    There is a link for each training and pre-training, also for those that have not begun: TensorBoard
    finds them when they do.  A training that cells share is linked once, named after the first of them.
    """
    folder = experiment.folder / "tensorboard"
    names: dict[str, Path] = {}
    linked: set[str] = set()
    for cell in experiment.cells:
        for stage in cell.stages:
            if stage.kind not in ("pretrain", "train") or stage.name in linked:
                continue
            linked.add(stage.name)
            what = "" if stage is cell.training else f", {stage.kind}ing it starts from"
            name = _file_name(f"{cell.label}, seed {stage.config.seed}{what}")
            # Different labels may become the same file name.
            name = f"{name}, {stage.name}" if name in names else name
            names[name] = StageDirectory(experiment.root, stage.name).file(StageFile.TENSORBOARD)
    _relink(folder, {name: os.path.relpath(target, folder) for name, target in names.items()})
    return folder


def _relink(folder: Path, targets: dict[str, str]) -> None:
    """Make the folder's links these; a link that stays is there at every moment."""
    make_dirs(folder)
    try:
        for entry in folder.iterdir():
            if entry.is_symlink() and str(entry.readlink()) != targets.get(entry.name):
                entry.unlink()
        for name, target in targets.items():
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(target)
    except OSError as error:
        raise disk_error(error, folder) from error


def _file_name(text: str) -> str:
    """A label as a file name: no separator, no leading dot, no control characters, not too long."""
    plain = "".join(" " if ord(letter) < 32 or letter == os.sep else letter for letter in text)
    cut = " ".join(plain.split()).encode()[:_LONGEST].decode(errors="ignore")
    return cut.lstrip(". ") or "run"


def open_tensorboard(folder: Path, port: int) -> NoReturn:
    """Replace this process by TensorBoard on ``folder``; it prints its address, and ends with Ctrl-C."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", str(port)]
    os.execv(sys.executable, command)
