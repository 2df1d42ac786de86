"""Which kind of file a YAML file is: the settings of one cell, or an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cad.config import load
from cad.config.yaml_source import YamlReader
from cad.errors import UsageError, printable
from cad.schema.cell import Config


def holds_experiment(file: Path) -> bool:
    """Whether a file is an experiment: only those have arms."""
    return YamlReader().read(file).find(("arms",)) is not None


def load_cell(files: Sequence[Path], overrides: Sequence[str]) -> Config:
    """The settings of one cell.  Raises :class:`UsageError`, also for the file of an experiment."""
    for file in files:
        if holds_experiment(file):
            raise UsageError(
                f"{printable(file)}: it is an experiment (it has arms), and this takes the settings of one "
                f"cell, such as configs/model/ad.yaml; 'cad run {printable(file)}' runs the experiment"
            )
    return load(Config, files, overrides).value
