"""The stages of one cell: ``collect``, ``pretrain``, ``train``, ``evaluate``; and ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cad.cli.arguments import CORES, RUNS, ConfigWords, Device, Ranks, Root, Workers, split_files
from cad.cli.outputs import require_output
from cad.cli.terminal import console, say
from cad.errors import UsageError


def collect(words: ConfigWords = None, root: Root = RUNS, workers: Workers = CORES) -> None:
    """Let the source agents learn every task and keep their learning histories (HDF5).

    Example: cad collect configs/env/darkroom.yaml
    """
    _run_cell(words, "histories", root, workers, "cpu", 1)


def pretrain(
    words: ConfigWords = None,
    root: Root = RUNS,
    workers: Workers = CORES,
    device: Device = "auto",
    ranks: Ranks = 1,
) -> None:
    """Pre-train one encoder; cells with pretrain.enabled and the same settings use it.

    Example: cad pretrain configs/model/compressed_ad_quick.yaml
    """
    _run_cell([*(words or []), "pretrain.enabled=true"], "pretrain", root, workers, device, ranks)


def train(
    words: ConfigWords = None,
    root: Root = RUNS,
    workers: Workers = CORES,
    device: Device = "auto",
    ranks: Ranks = 1,
) -> None:
    """Train one model; collect its histories first where they are missing.

    Example: cad train configs/model/compressed_ad_quick.yaml model.n_latent=8
    """
    _run_cell(words, "train", root, workers, device, ranks)


def evaluate(
    words: ConfigWords = None,
    root: Root = RUNS,
    workers: Workers = CORES,
    device: Device = "auto",
    ranks: Ranks = 1,
    trace: Annotated[bool, typer.Option("--trace", help="Print every compression as it happens.")] = False,
    model: Annotated[
        Path | None, typer.Option(help="Evaluate this file of `cad export` instead; nothing is trained.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --model: write the returns here (HDF5).")] = None,
) -> None:
    """Evaluate one model on the held-out tasks; train it first if that is not done yet.

    Example: cad evaluate configs/model/ad.yaml evaluation.n_episodes=50
    """
    if model is None:
        if out is not None:
            raise UsageError("--out goes with --model; a stage keeps its returns in its own directory")
        _run_cell(words, "evaluate", root, workers, device, ranks, trace=trace)
        return
    files, overrides = split_files(words)
    if files or ranks > 1:
        raise UsageError("--model brings its own config: give only overrides of evaluation.* with it")
    if out is not None:
        require_output("--out", out, [model])
    from cad.experiments.analysis.exported import evaluate_exported

    say(evaluate_exported(model, overrides, device, out, say if trace else None))


def export(
    stage: Annotated[str, typer.Argument(help="A training: its directory, or its name under --root.")],
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    root: Root = RUNS,
) -> None:
    """Write a training's newest weights to one file that `cad evaluate --model` reads.

    Example: cad export train-0123456789ab --out model.safetensors
    """
    from cad.experiments.analysis.exported import export_training

    require_output("--out", out, [Path(stage)])
    say(export_training(stage, root, out))


def _run_cell(
    words: list[str] | None,
    last: str,
    root: Path,
    workers: int,
    device: str,
    ranks: int,
    *,
    trace: bool = False,
) -> None:
    from cad.schema import load_cell

    config = load_cell(*split_files(words))
    # Only now: a mistake in the config is reported without waiting for torch.
    from cad.experiments.plan.cells import Cell
    from cad.experiments.run.local_run import run_cell

    path = run_cell(Cell("", "", config), last, root, workers, device, console, trace=trace, ranks=ranks)
    say(path)
