"""``cad histories``: check and draw files of learning histories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cad.cli.terminal import console, say
from cad.errors import CadError


def audit(file: Path) -> None:
    """Verify a histories file by replaying it; list every contradiction."""
    from cad.experiments.plan.directory import checked_if_recorded
    from cad.histories.audit import audit as audit_file
    from cad.histories.audit_table import audit_table

    report = audit_file(checked_if_recorded(file))
    console.print(audit_table(report))
    say(f"{report.transitions:,} transitions replayed from state, action and goal")
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
    """Draw the learning curves of a histories file."""
    from cad.experiments.plan.directory import checked_if_recorded
    from cad.histories.plot import plot_histories

    target = out or file.with_suffix(".png")
    plot_histories(checked_if_recorded(file), target)
    say(target)
