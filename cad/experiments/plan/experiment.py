"""Open an experiment file: read it, check it, expand it to cells.  Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cad.config import load
from cad.errors import CadError
from cad.experiments.plan.cells import Cell, expand
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

    @property
    def folder(self) -> Path:
        """The experiment's own folder: report, logs of jobs, resolved config."""
        return self.root / self.config.name

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
    if config.name == "stages":
        raise CadError(f"{file}: name: 'stages' is a folder that all experiments share; choose another name")
    cells = expand(config, str(file), lambda path: loaded.place(path, str(file)))
    return Experiment(file, tuple(overrides), root.absolute(), config, cells)
