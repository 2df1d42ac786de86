"""Writing the report: HTML that opens from disk, Markdown, JSON, CSV, PNG."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cad.config.schema import ReportConfig
from cad.reports import cost_figures, figures, probe_figure, region_figure, rollout_figure, wording
from cad.reports.aggregate import RESAMPLES, Study, differing_keys, flatten, make_study
from cad.reports.results import CellResult, Provenance, SourceCurve
from cad.reports.style import Drawing, drawing_style
from cad.reports.tables import (
    ShownTable,
    Table,
    cell_record,
    config_table,
    cost_table,
    data_tables,
    fingerprint,
    goals_table,
    results_table,
)
from cad.storage import atomic_path, write_json, write_text

SCHEMA_VERSION = 1
FIGURES = (
    "learning",
    "grid",
    "goals",
    "maps",
    "rollouts",
    "regions",
    "latents",
    "attention",
    "cost",
    "training",
    "training_by_depth",
)


@dataclass(frozen=True)
class Section:
    """One question, the sentence that answers it, its figures and tables."""

    anchor: str
    heading: str
    sentence: str
    drawings: tuple[Drawing, ...]
    tables: tuple[ShownTable, ...]


def _sections(study: Study) -> list[Section]:
    with drawing_style():
        learning = figures.draw_learning(study)
        grid = figures.draw_grid(study)
        goals, maps = figures.draw_goals(study), figures.draw_maps(study)
        regions = region_figure.draw_regions(study)
        latents = probe_figure.draw_probe(study), probe_figure.draw_attention(study)
        rollouts = rollout_figure.draw_rollouts(study)
        cost = cost_figures.draw_cost(study)
        training = cost_figures.draw_training(study), cost_figures.draw_training_by_depth(study)
    answers = wording.sentences(study)
    goal_numbers = goals_table(study)
    made = [
        Section(
            "learning-in-context",
            "Does it learn in context?",
            answers["learning-in-context"],
            _present(learning),
            (),
        ),
        Section(
            "depth-and-latents",
            "How does the return depend on compression depth and latents?",
            answers["depth-and-latents"],
            _present(grid),
            (results_table(study),) if study.groups else (),
        ),
        Section(
            "where-it-fails",
            "Where does it fail?",
            answers["where-it-fails"],
            _present(goals, maps, rollouts),
            (goal_numbers,) if goal_numbers else (),
        ),
        Section(
            "when-it-compresses",
            "When did it choose to compress?",
            region_figure.regions_sentence(study),
            _present(regions),
            (),
        ),
        Section(
            "what-latents-hold",
            "What is in the latents?",
            probe_figure.probe_sentence(study),
            _present(*latents),
            (),
        ),
        Section(
            "cost-of-compression",
            "What does compression cost or save?",
            answers["cost-of-compression"],
            _present(cost),
            (cost_table(study),) if study.groups else (),
        ),
        Section("how-training-went", "How did training go?", "", _present(*training), ()),
    ]
    return [section for section in made if section.drawings or section.tables]


def _present(*drawings: Drawing | None) -> tuple[Drawing, ...]:
    return tuple(drawing for drawing in drawings if drawing is not None)


def _method() -> str:
    """How the numbers were made, in words."""
    return (
        "A return is the sum of rewards of one episode; it is divided by the optimum of its task. Means are "
        "taken over roll-outs first, then tasks, then training seeds. “Last episodes” means the last ten of "
        f"a roll-out, or all where there are fewer. Intervals are percentiles of {RESAMPLES:,} bootstrap "
        "resamples of the held-out tasks and of the roll-outs within each, and of the training seeds where "
        "there are more than three; with as few as eight tasks they are somewhat too narrow. "
        "Cells that are missing or failed enter no mean; one return that is NaN or infinite makes its cell "
        "a failed one."
    )


def report_json(study: Study, tables: dict[str, Table], provenance: Provenance) -> dict[str, Any]:
    """Every number and sentence of the report, as ``report.json`` holds them."""
    shared = differing_keys([group.config for group in study.groups])
    return {
        "schema_version": SCHEMA_VERSION,
        "name": study.name,
        "title": study.title,
        "question": study.question,
        "headline": wording.headline(study),
        "qualification": wording.qualification(study),
        "notices": wording.notices(study),
        "sentences": wording.sentences(study),
        "fingerprint": fingerprint(study, tables),
        "cells": [cell_record(cell) for cell in study.cells],
        "configs": {
            "differing_keys": shared,
            "groups": [
                {"label": group.label, "config": group.config.model_dump(mode="json")}
                for group in study.groups
            ],
        },
        "tables": {name: table.as_json() for name, table in tables.items()},
        "provenance": asdict(provenance)
        | {
            "packages": dict(provenance.packages),
            "commands": list(provenance.commands),
            "inputs": dict(provenance.inputs),
        },
    }


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cad.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    # Only our own drawings pass unescaped; matplotlib escapes the names inside them.
    environment.filters["drawing"] = lambda drawing: Markup(drawing.svg)
    return environment


def _context(
    study: Study, sections: Sequence[Section], print_: str, provenance: Provenance
) -> dict[str, Any]:
    configs = [group.config for group in study.groups]
    keys = differing_keys(configs)
    flats = [flatten(config) for config in configs]
    shared = {key: value for key, value in flats[0].items() if key not in [*keys, "seed"]} if flats else {}
    return {
        "study": study,
        "headline": wording.headline(study),
        "qualification": wording.qualification(study),
        "notices": wording.notices(study),
        "sections": sections,
        "method": _method(),
        "differing": config_table(study, keys, flats) if keys else None,
        "shared": shared,
        "provenance": provenance,
        "fingerprint": print_,
        "seeds": sorted({cell.result.config.seed for cell in study.cells}),
    }


def _escape_markdown(text: str) -> str:
    """One line of text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|#$~&])", r"\\\1", " ".join(text.split()))


def _markdown_table(table: ShownTable) -> str:
    lines = [
        "| " + " | ".join(_escape_markdown(header) for header in table.headers) + " |",
        "|" + "|".join(" --- " if i == 0 else " ---: " for i in range(len(table.headers))) + "|",
    ]
    lines += ["| " + " | ".join(_escape_markdown(cell.text) for cell in row) + " |" for row in table.rows]
    return "\n".join(lines)


def _markdown(context: dict[str, Any]) -> str:
    study: Study = context["study"]
    provenance: Provenance = context["provenance"]
    e = _escape_markdown
    blocks = [f"# {e(study.title)}"]
    blocks += [e(study.question)] if study.question else []
    blocks.append(f"**{e(context['headline'])}**")
    blocks += [e(context["qualification"])] if context["qualification"] else []
    if context["notices"]:
        blocks.append("\n".join(["Missing, failed, or to be known first:", ""] + [
            f"- {e(line)}" for line in context["notices"]
        ]))  # fmt: skip
    for section in context["sections"]:
        blocks.append(f"## {e(section.heading)}")
        blocks += [e(section.sentence)] if section.sentence else []
        for drawing in section.drawings:
            blocks.append(f"![{e(drawing.alt)}](figures/{drawing.name}.png)")
            blocks.append(f"*{e(drawing.title)}.* {e(drawing.caption)}")
        blocks += [_markdown_table(table) for table in section.tables]
    blocks += ["## How the numbers were made", e(context["method"])]
    blocks += [e(provenance.protocol)] if provenance.protocol else []
    blocks += [_markdown_table(context["differing"])] if context["differing"] else []
    state = " with uncommitted changes" if provenance.dirty else ""
    blocks.append(
        "\n".join(
            [
                f"- code: {e(provenance.code_version)}{state}",
                f"- hardware: {e(provenance.hardware)}",
                "- packages: " + e(", ".join(f"{k} {v}" for k, v in sorted(provenance.packages.items()))),
                *(f"- {e(name)}: sha256 {e(digest)}" for name, digest in sorted(provenance.inputs.items())),
                f"- fingerprint of all numbers but timings: {context['fingerprint']}",
            ]
        )
    )
    if provenance.commands:
        blocks.append("\n".join("    " + " ".join(command.split()) for command in provenance.commands))
    return "\n\n".join(blocks) + "\n"


def write_report(
    name: str,
    report: ReportConfig,
    cells: Sequence[CellResult],
    source: SourceCurve | None,
    provenance: Provenance,
    out_dir: Path,
) -> Path:
    """Write ``report.{html,md,json}``, ``figures/*.png`` and ``csv/*.csv``; returns the HTML's path.

    Each file appears whole or not at all, the HTML last; equal input gives equal bytes.  Figures of
    an earlier report that this one does not have are removed.  Raises :class:`cad.errors.CadError`
    where the disk refuses or a cell is given twice.
    """
    study = make_study(name, report.title, report.question, cells, source)
    tables = data_tables(study) | probe_figure.probe_tables(study) | rollout_figure.rollout_tables(study)
    numbers = report_json(study, tables, provenance)
    sections = _sections(study)
    for table_name, table in tables.items():
        write_text(out_dir / "csv" / f"{table_name}.csv", table.as_csv())
    drawn = {drawing.name: drawing for section in sections for drawing in section.drawings}
    for figure_name in FIGURES:
        path = out_dir / "figures" / f"{figure_name}.png"
        if figure_name not in drawn:
            path.unlink(missing_ok=True)
            continue
        with atomic_path(path) as temporary:
            temporary.write_bytes(drawn[figure_name].png)
    write_json(out_dir / "report.json", numbers)
    context = _context(study, sections, numbers["fingerprint"], provenance)
    write_text(out_dir / "report.md", _markdown(context))
    html = out_dir / "report.html"
    write_text(html, _environment().get_template("report.html.j2").render(context))
    return html
