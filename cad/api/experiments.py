"""Experiments from a script or a notebook."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cad.api.results import Results
from cad.errors import UsageError, printable
from cad.experiments.plan.experiment import Experiment, open_experiment
from cad.experiments.run.local_run import run_experiment
from cad.experiments.run.pack_size import PackSize, local_limit, pack_size
from cad.experiments.run.resources import Resources, require_count
from cad.experiments.run.table import progress_bar
from cad.schema import Config, load_cell
from cad.storage import given_path
from cad.surroundings import usable_cores


def load_config(*files: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config of one cell, checked: defaults < files < overrides, as on the command line.

    Examples:
        >>> config = cad.load_config(overrides=("model.n_latent=8",))
        >>> config.model.n_latent, config.env.name
        (8, 'darkroom')
    """
    return load_cell([given_path("files", file) for file in files], _words(overrides))


def load_results(experiment: str | Path, *overrides: str, root: str | Path = "runs") -> Results:
    """What is stored of an experiment, finished or not; nothing is run.

    Examples:
        >>> results = cad.load_results("small.yaml")
        >>> results.name, [cell.status for cell in results.cells]
        ('small', ['done', 'done'])
    """
    return Results(_open(experiment, overrides, root))


def run(
    experiment: str | Path,
    *overrides: str,
    root: str | Path = "runs",
    workers: int | None = None,
    device: str = "auto",
    pack: PackSize = 1,
    progress: bool = True,
    report: bool = True,
) -> Results:
    """Run what is missing of an experiment on this machine, then write its report.

    Args:
        experiment: an experiment file.
        overrides: words such as ``base.train.n_updates=500``.
        root: folder of all runs.
        workers: processes at a time; default: one a core.
        device: cpu, cuda, cuda:N or auto.
        pack: most trainings of one shape that a process works on together; ``"auto"``: by memory.
        progress: show a bar.
        report: write the report too, ``<root>/<name>/report/report.html``.

    An interrupt saves and stops; the same call goes on.  Raises :class:`CadError` where a stage failed.

    Examples:
        >>> cad.run("small.yaml", progress=False, report=False).labels
        ('AD', 'CompressedAD')
    """
    cores = usable_cores() if workers is None else workers
    require_count("workers", cores)
    size = pack_size(pack)
    opened = _open(experiment, overrides, root)
    console = Console(file=sys.stderr, quiet=not progress)
    most, memory = local_limit(size, device, cores)
    resources = Resources(workers=cores, device=device, pack=most, pack_memory=memory)
    run_experiment(
        opened, resources=resources, inline=False, console=console, report=report, display=progress_bar
    )
    return Results(opened)


def _open(experiment: str | Path, overrides: tuple[str, ...], root: str | Path) -> Experiment:
    return open_experiment(given_path("experiment", experiment), _words(overrides), given_path("root", root))


def _words(overrides: Sequence[str]) -> list[str]:
    if isinstance(overrides, str) or not isinstance(overrides, Sequence):
        raise UsageError(f"overrides={_shown(overrides)}: give a list of words, such as ['seed=1']")
    for word in overrides:
        if not isinstance(word, str):
            raise UsageError(f"override {_shown(word)}: expected KEY=VALUE as text, such as 'seed=1'")
    return list(overrides)


def _shown(value: object) -> str:
    return printable(repr(value), 80)
