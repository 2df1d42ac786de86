"""``cad histories``: check, draw, import and export files of learning histories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cad.cli.arguments import ConfigWords, split_files
from cad.cli.outputs import require_not_input, require_output
from cad.cli.terminal import console, say
from cad.errors import CadError, UsageError


def audit(file: Path) -> None:
    """Verify a histories file by replaying it; list every contradiction.

    Example: cad histories audit FILE.h5
    """
    from cad.experiments.plan.directory import checked_if_recorded
    from cad.histories.audit import audit as audit_file
    from cad.histories.audit_table import audit_table

    report = audit_file(checked_if_recorded(file))
    console.print(audit_table(report))
    how = "replayed from state, action and goal" if report.replayed else "looked at, none replayed"
    say(f"{report.transitions:,} transitions {how}")
    for warning in report.warnings:
        say("warning:", f" {warning}", style="yellow")
    for problem in report.problems:
        say("problem:", f" {problem}", style="red")
    if not report.ok:
        raise CadError(f"{file} fails the audit: {len(report.problems)} problems, listed above")
    say("sound", style="green")


def plot(
    file: Path,
    out: Annotated[Path | None, typer.Option(help="PNG file; default: beside the histories.")] = None,
) -> None:
    """Draw the learning curves of a histories file.

    Example: cad histories plot FILE.h5
    """
    from cad.experiments.plan.directory import checked_if_recorded
    from cad.histories.plot import plot_histories

    target = out or file.with_suffix(".png")
    require_not_input("--out", target, file)
    if out is not None:
        require_output("--out", out)
    plot_histories(checked_if_recorded(file), target)
    say(target)


def import_(
    file: Annotated[
        Path, typer.Argument(help="HDF5 of the documented layout, or the folder of a Minari dataset.")
    ],
    to: Annotated[Path, typer.Option(help="The histories file to write.")],
    words: ConfigWords = None,
) -> None:
    """Make a histories file of another program's data; `source.kind: file` trains from it.

    Config files here have a section env alone; a file that says of which environment it is needs none.

    Example: cad histories import THEIRS.h5 env.name=darkroom --to ours.h5
    """
    from cad.config import load
    from cad.histories.imported import import_hdf5
    from cad.schema import EnvOnly

    env = load(EnvOnly, *split_files(words)).value.env if words else None
    if to.exists():
        raise UsageError(f"--to {to}: it is there already; name another file")
    require_output("--to", to)
    if file.is_dir():
        from cad.histories.minari_datasets import import_minari

        source, report = import_minari(file, env, to)
    else:
        source, report = import_hdf5(file, env, to)
    for warning in report.warnings:
        say("warning:", f" {warning}", style="yellow")
    say(f"{to}: {len(report.table)} tasks; in an experiment or a config:")
    say(f"source: {{kind: file, path: {to.absolute()}, n_streams: {source.n_streams}, "
        f"steps_per_stream: {source.steps_per_stream}}}")  # fmt: skip


def export(
    file: Path,
    to: Annotated[Path, typer.Option(help="What to write: a file, or with minari a folder.")],
    form: Annotated[
        Literal["hdf5", "minari"],
        typer.Option("--format", help="The documented layout, or a Minari dataset."),
    ] = "hdf5",
) -> None:
    """Write a histories file for other programs.

    Example: cad histories export ours.h5 --format minari --to ours-v0
    """
    from cad.experiments.plan.directory import checked_if_recorded
    from cad.histories.file import open_histories

    if to.exists():
        raise UsageError(f"--to {to}: it is there already; name another")
    require_output("--to", to)
    with open_histories(checked_if_recorded(file)) as histories:
        if form == "hdf5":
            from cad.histories.imported import export_hdf5

            say(f"{to}: {export_hdf5(histories, to)} tasks")
            return
        from cad.histories.minari_datasets import export_minari

        say(f"{to}: {export_minari(histories, to)} episodes")
