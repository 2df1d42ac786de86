"""The report as Markdown, for a repository: the page's content without its behaviour."""

from __future__ import annotations

import re

from cad.reports.data import ShownTable
from cad.reports.output.page import Content


def escape_markdown(text: str) -> str:
    """One line of text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|#$~&])", r"\\\1", " ".join(text.split()))


def _table(shown: ShownTable) -> str:
    """A table with its numbers to the right."""
    lines = [
        "| " + " | ".join(escape_markdown(header) for header in shown.headers) + " |",
        "|" + "|".join(" --- " if i == 0 else " ---: " for i in range(len(shown.headers))) + "|",
    ]
    lines += ["| " + " | ".join(escape_markdown(cell.text) for cell in row) + " |" for row in shown.rows]
    return "\n".join(lines)


def markdown(content: Content) -> str:
    """The report as Markdown."""
    study, provenance, e = content.study, content.provenance, escape_markdown
    blocks = [f"# {e(study.title)}"]
    blocks += [e(study.question)] if study.question else []
    blocks += (
        [f"**{e(content.answer)}**", e(content.headline)]
        if content.answer
        else [f"**{e(content.headline)}**"]
    )
    blocks += [e(content.qualification)] if content.qualification else []
    if content.notices:
        lines = [f"- {e(line)}" for line in content.notices]
        blocks.append("\n".join(["Read this first:", "", *lines]))
    for answer in content.answers:
        blocks.append(f"## {e(answer.heading)}")
        blocks += [e(answer.sentence)] if answer.sentence else []
        for drawing in answer.drawings:
            picture = f"![{e(drawing.alt)}](figures/{drawing.name}.png)"
            blocks.append(e(drawing.alt) if drawing.prints is None else picture)
            blocks.append(f"*{e(drawing.title)}.* {e(drawing.caption)}")
        blocks += [_table(shown) for shown in answer.tables]
    blocks += ["## How the numbers were made", e(content.method)]
    blocks += [e(provenance.protocol)] if provenance.protocol else []
    if provenance.commands:
        blocks.append("\n".join("    " + " ".join(command.split()) for command in provenance.commands))
    blocks += [_table(shown) for shown in (content.costs, content.differing) if shown]
    blocks.append("\n".join(f"- {e(fact.term)}: {e(fact.text)}" for fact in content.facts))
    return "\n\n".join(blocks) + "\n"
