"""TensorBoard on an experiment: a folder of links with readable names to the event files of its stages.

The record of a training is its ``metrics.jsonl``; the event files beside it are written at the same time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from cad.experiments.directory import StageDirectory
from cad.experiments.opened import OpenExperiment
from cad.storage import disk_error, make_dirs

_LONGEST = 200  # of a name; file systems take 255 bytes


def link_boards(experiment: OpenExperiment) -> Path:
    """Make ``tensorboard/`` in the experiment's folder anew; its path.

    A link for each training and pre-training, those too that have not begun: TensorBoard finds them
    when they do.  What cells share is linked once, under the first one's name.
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
            # Labels differ, but what is left of them as file names may not.
            name = f"{name}, {stage.name}" if name in names else name
            names[name] = StageDirectory(experiment.root, stage).file("tensorboard")
    _relink(folder, {name: os.path.relpath(target, folder) for name, target in names.items()})
    return folder


def _relink(folder: Path, targets: dict[str, str]) -> None:
    """Make the folder's links these, without a moment in which one that stays is not there."""
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
    """Become TensorBoard on ``folder``; it tells its address, and ends with Ctrl-C."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", str(port)]
    os.execv(sys.executable, command)
