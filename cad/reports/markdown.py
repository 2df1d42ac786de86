"""The report as Markdown, for a repository: the page's content without its behaviour."""

from __future__ import annotations

import re
from typing import Any

from cad.reports.tables import ShownTable


def escape(text: str) -> str:
    """One line of text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|#$~&])", r"\\\1", " ".join(text.split()))


def table(shown: ShownTable) -> str:
    """A table with its numbers to the right."""
    lines = [
        "| " + " | ".join(escape(header) for header in shown.headers) + " |",
        "|" + "|".join(" --- " if i == 0 else " ---: " for i in range(len(shown.headers))) + "|",
    ]
    lines += ["| " + " | ".join(escape(cell.text) for cell in row) + " |" for row in shown.rows]
    return "\n".join(lines)


def markdown(context: dict[str, Any]) -> str:
    """The report, from the context of the page's template."""
    study, provenance, e = context["study"], context["provenance"], escape
    blocks = [f"# {e(study.title)}"]
    blocks += [e(study.question)] if study.question else []
    blocks.append(f"**{e(context['headline'])}**")
    blocks += [e(context["qualification"])] if context["qualification"] else []
    if context["notices"]:
        lines = [f"- {e(line)}" for line in context["notices"]]
        blocks.append("\n".join(["Missing, failed, or to be known first:", "", *lines]))
    for section in context["sections"]:
        blocks.append(f"## {e(section.heading)}")
        blocks += [e(section.sentence)] if section.sentence else []
        for drawing in section.drawings:
            blocks.append(f"![{e(drawing.alt)}](figures/{drawing.name}.png)")
            blocks.append(f"*{e(drawing.title)}.* {e(drawing.caption)}")
        blocks += [table(shown) for shown in section.tables]
    blocks += ["## How the numbers were made", e(context["method"])]
    blocks += [e(provenance.protocol)] if provenance.protocol else []
    if provenance.commands:
        blocks.append("\n".join("    " + " ".join(command.split()) for command in provenance.commands))
    blocks += [table(shown) for shown in (context["costs"], context["differing"]) if shown]
    blocks.append("\n".join(f"- {e(fact.term)}: {e(fact.text)}" for fact in context["facts"]))
    return "\n\n".join(blocks) + "\n"
