"""Open an experiment file: read it, check it, expand it to cells.  Imports nothing heavy."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cad.checksums import DamagedFileError
from cad.config import load
from cad.errors import UsageError
from cad.experiments.plan.cells import SEED_ADVICE, Cell, expand
from cad.experiments.plan.directory import StageFile
from cad.experiments.plan.stage import named_files
from cad.schema import ExperimentConfig


@dataclass(frozen=True)
class Experiment:
    """A resolved experiment file."""

    file: Path
    overrides: tuple[str, ...]
    root: Path
    config: ExperimentConfig
    cells: tuple[Cell, ...]
    compared: tuple[Experiment, ...] = ()  # those that it puts side by side
    files: tuple[Path, ...] = ()  # the experiment file, and what it includes

    @property
    def folder(self) -> Path:
        """The experiment's own folder: report, logs of jobs, resolved config."""
        return self.root / self.config.name

    @property
    def page(self) -> Path:
        """Where its report is, once it is written."""
        return self.folder / "report" / "report.html"

    @property
    def repair_command(self) -> str:
        """The command that sets damaged files of the experiment's stages aside and makes them again."""
        return self.command("repair")

    def command(self, name: str) -> str:
        """The command of this name for this experiment, for a shell."""
        root = [] if self.root == Path("runs").absolute() else ["--root", str(self.root)]
        return shlex.join(["cad", name, str(self.file), *self.overrides, *root])

    @contextlib.contextmanager
    def naming_repair(self) -> Iterator[None]:
        """Within the block, the message about a damaged file names the experiment's own repair."""
        try:
            yield
        except DamagedFileError as error:
            owners = [each for each in self.compared if error.path.parent.name in each.stage_names]
            owner = (owners or [self])[0]
            remedy = f"'{owner.repair_command}' sets it aside and makes it again"
            if error.path.name == StageFile.PROBE:
                remedy = (
                    f"'{owner.repair_command}' sets it aside, and '{owner.command('probe')}' makes it again"
                )
            raise DamagedFileError(error.path, error.why, remedy) from error

    @property
    def stage_names(self) -> set[str]:
        """The names of all its stages."""
        return {stage.name for cell in self.cells for stage in cell.stages}

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files of the user's that it reads: its YAML, and what its settings name."""
        named = (file for cell in self.cells for stage in cell.stages for file in named_files(stage))
        return tuple(dict.fromkeys((self.file, *self.files, *named)))

    def record(self) -> dict[str, object]:
        """Plain data of the resolved experiment, kept beside its report."""
        return {
            "experiment": self.config.model_dump(mode="json"),
            "cells": [
                {
                    "label": cell.label,
                    "seed": cell.config.seed,
                    "config": cell.config.model_dump(mode="json"),
                    "stages": [stage.name for stage in cell.stages],
                }
                for cell in self.cells
            ],
        }


def open_experiment(file: Path, overrides: Sequence[str], root: Path) -> Experiment:
    """Read an experiment file and expand it to cells; every setting is checked before anything runs."""
    loaded = load(ExperimentConfig, [file], overrides)
    config = loaded.value
    if loaded.is_written(("base", "seed")):
        raise UsageError(f"{loaded.place(('base', 'seed'))}: base.seed: {SEED_ADVICE}")
    if config.name == "stages":
        raise UsageError(
            f"{file}: name: 'stages' is a folder that all experiments share; choose another name"
        )
    return Experiment(
        file,
        tuple(overrides),
        root.absolute(),
        config,
        expand(config, str(file), loaded.place),
        files=loaded.files,
    )
