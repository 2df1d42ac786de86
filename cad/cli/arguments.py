"""Arguments and options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cad.surroundings import usable_cores

RUNS = Path("runs")
CORES = usable_cores()

ExperimentFile = Annotated[Path, typer.Argument(help="Experiment file.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")]
ConfigWords = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FILE.yaml]... [KEY=VALUE]...", help="Config files, then overrides."),
]
Root = Annotated[Path, typer.Option(help="Folder that holds all runs.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes at a time.")]
Ranks = Annotated[
    int,
    typer.Option(
        "--ranks", min=1, help="Processes that share one training (train.engine accelerate or deepspeed)."
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(help="Label of a model that all others are compared with, besides the best AD."),
]
AllowUnequal = Annotated[
    bool,
    typer.Option(
        "--allow-unequal",
        help="Compare cells with unequal tasks or numbers of episodes on what they share.",
    ),
]

Figures = Annotated[
    bool,
    typer.Option(
        "--figures/--no-figures",
        help="Write figures for papers, PNG and PDF, beside the report's page: half of its time.",
    ),
]


def split_words(words: list[str] | None) -> tuple[list[str], list[str]]:
    """Files or numbers, and overrides: words with a ``=``, but for paths, which may have one too."""
    overrides = [word for word in words or [] if _is_override(word)]
    return [word for word in words or [] if word not in overrides], overrides


def _is_override(word: str) -> bool:
    key, equals, _ = word.partition("=")
    # No key has a slash.
    return bool(equals) and os.sep not in key and not (word.endswith((".yaml", ".yml")) and is_file(word))


def is_file(word: str) -> bool:
    """Whether a word of the command line names a file."""
    try:
        return Path(word).is_file()
    except (OSError, ValueError):  # too long for a path
        return False


def split_files(words: list[str] | None) -> tuple[list[Path], list[str]]:
    """Config files, and overrides such as ``model.n_latent=8``."""
    files, overrides = split_words(words)
    return [Path(file) for file in files], overrides
