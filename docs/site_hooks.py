"""What mkdocs cannot know: pages made from the program itself, and links that leave ``docs/``."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.structure.files import File

from cad import surroundings
from cad.cli.app import build
from cad.cluster.profile import Profile
from cad.config import describe
from cad.schema import Config, ExperimentConfig

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the start page, which is README, the reference, and pictures from other folders."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    made = {
        "index.md": re.sub(r"\]\(docs/", "](", re.sub(r"\]\((?!docs/|https?:)", "](../", readme)),
        "reference/commands.md": _commands(),
        "notebook.md": _notebook(ROOT / "examples" / "notebook.py"),
        "reference/config.md": _keys("Keys of a config", Config),
        "reference/files.md": _keys("Keys of an experiment", ExperimentConfig)
        + "\n"
        + _keys("Keys of a cluster profile", Profile, level=2),
        "reference/python.md": "# Python\n\n::: cad.api\n    options:\n      show_root_heading: false\n",
        "reference/surroundings.md": _surroundings(),
    }
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    texts = [*made.values(), *(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))]
    pictures = {match[3] for text in texts for match in _LINK.finditer(text) if match[1]}
    for picture in sorted(pictures):
        path = picture.removeprefix("../").removeprefix("../")
        if picture.startswith("../") and (ROOT / path).is_file():
            files.append(File.generated(config, f"pictures/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to other files of the repository become their names; pictures of theirs come along."""
    up = "../" * page.file.src_uri.count("/")

    def change(match: re.Match[str]) -> str:
        picture, text, link, _ = match.groups()
        if link.startswith(("http:", "https:")) or not link.startswith(f"{up}../"):
            return match[0]
        path = link.removeprefix(f"{up}../")
        if picture:
            return f"![{text}]({up}pictures/{path})"
        return f"{text} (`{path}`)" if text != path else f"`{path}`"

    return _LINK.sub(change, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Docstrings have Sphinx's roles, which a reader need not see."""
    return re.sub(r":(?:meth|class|func|attr|mod|data|exc):(?=<)", "", content)


def _notebook(file: Path) -> str:
    """A script in cells (``# %%``) as a page: its text as it is, each cell's heading above its code."""
    parts = []
    for cell in re.split(r"^# %%", file.read_text(encoding="utf-8"), flags=re.M)[1:]:
        heading, _, body = cell.partition("\n")
        if heading.strip() == "[markdown]":
            parts.append(re.sub(r"^# ?", "", body, flags=re.M).strip())
        else:
            parts.append(f"## {heading.strip(' .')}\n\n```python\n{body.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def _commands() -> str:
    """Every command with its help."""
    root: Any = typer.main.get_command(build())
    context = root.make_context("cad", [], resilient_parsing=True)
    parts = ["# Commands", ""]

    def add(command: Any, name: str, parent: Any) -> None:
        if hasattr(command, "list_commands"):
            for child in command.list_commands(parent):
                inner = command.get_command(parent, child)
                add(
                    inner,
                    f"{name} {child}",
                    inner.make_context(child, [], parent=parent, resilient_parsing=True),
                )
            return
        words = " ".join(command.collect_usage_pieces(parent))
        about = re.sub(r"^Example: (.+)$", r"Example: `\1`", (command.help or "").strip(), flags=re.M)
        parts.extend([f"## {name}", "", about, "", f"    {name} {words}", ""])
        rows = [option.get_help_record(parent) for option in command.params]
        rows = [row for row in rows if row is not None]
        if rows:
            parts.extend(["| option | meaning |", "|---|---|"])
            parts.extend(f"| {_code(option)} | {_cell(meaning)} |" for option, meaning in rows)
            parts.append("")

    add(root, "cad", context)
    return "\n".join(parts)


def _keys(title: str, section: Any, level: int = 1) -> str:
    """A table of every key of a section of settings."""
    rows = describe(section)
    lines = [f"{'#' * level} {title}", "", "| key | type | default | meaning |", "|---|---|---|---|"]
    for row in rows:
        cells = (_code(row.key), _cell(row.type), _code(row.default), _cell(row.description))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _surroundings() -> str:
    """Exit codes, and the module that owns the list of variables."""
    codes = "| code | meaning |\n|---|---|\n| 0 | success |\n| 1 | failure |\n| 2 | usage error |\n"
    codes += "| 3 | `cad status`: not all is done, nothing failed |\n| 130 | stopped |\n"
    return (
        f"# Exit codes and variables\n\n{codes}\n## Variables\n\n{(surroundings.__doc__ or '').strip()}\n\n"
        "::: cad.surroundings\n    options:\n      show_root_heading: false\n"
        "      show_docstring_description: false\n"
    )


def _cell(text: object) -> str:
    """Text in a cell of a table."""
    text = html.escape(" ".join(str(text).split()), quote=False)
    for special in "|[]*_`":
        text = text.replace(special, f"&#{ord(special)};")
    return text


def _code(text: object) -> str:
    """Code in a cell of a table."""
    return f"<code>{_cell(text)}</code>"
