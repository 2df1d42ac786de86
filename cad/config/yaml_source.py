"""YAML files as trees that remember the line of every value; ``include`` and deep merging.

The dialect is YAML 1.2's core schema on PyYAML's :class:`yaml.SafeLoader`: ``1e-3`` is a number,
``on``, ``off``, ``yes`` and ``no`` are text (a switch is ``true`` or ``false``), ``1:30:00`` and
``2026-01-01`` are text.  Keys that are defined twice, tags and merge keys are refused.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os.path import normpath
from pathlib import Path
from typing import Any

import yaml

from cad.config.presets import or_preset
from cad.errors import UsageError, printable
from cad.storage import VARIABLES_ADVICE, open_file, user_path

INCLUDE = "include"
# What no config needs; more is refused before it is read or built.
MOST_BYTES = 200_000  # of a file
MOST_FILES = 200  # that are read, each as often as it is included
MOST_VALUES = 10_000  # of all files, those behind aliases as often as they stand there
_DEEPEST = 100  # levels of a file
_MOST_DIGITS = 100  # of a whole number
_MESSAGE = 60  # characters of a file that a message repeats
# Characters that no setting needs, and that files, terminals and other programs take amiss.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_TAG = "tag:yaml.org,2002:"
_NUMBER_START = list("-+.0123456789")
_SCALARS = (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", _NUMBER_START),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", _NUMBER_START),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", _NUMBER_START),
)


class _TooMuchError(Exception):
    """Input beyond the limits; the message names the place."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Counts what it composes, so that a file of single characters ends soon."""
        self.n_values = getattr(self, "n_values", 0) + 1
        self.depth = getattr(self, "depth", 0) + 1
        problem = f"more than {MOST_VALUES:,} values, which no config needs"
        if self.depth > _DEEPEST:
            problem = "nested too deeply"
        if self.n_values > MOST_VALUES or self.depth > _DEEPEST:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.get_mark())
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class ConfigDumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 would read as something else."""


_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in _SCALARS:
    for _class in (_Loader, ConfigDumper):
        _class.add_implicit_resolver(_TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), _first)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Text over several lines stays on one, so that a comment can follow it.
    return dumper.represent_scalar(_TAG + "str", text, style=None if text.isprintable() else '"')


ConfigDumper.add_representer(str, _represent_text)


@dataclass(frozen=True)
class Sourced:
    """A value (scalar, list or mapping of others) and where it was written."""

    value: Any
    where: str
    broken: bool = False
    """Whether it stands for a value that could not be read, of which a problem tells already."""

    def plain(self) -> Any:
        """Bare Python value: dict, list, str, int, float, bool, None."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value

    def get(self, part: str | int) -> Sourced | None:
        """The child under a key or an index, or None."""
        if isinstance(self.value, dict):
            child: Sourced | None = self.value.get(part)
            return child
        if isinstance(self.value, list) and isinstance(part, int) and part < len(self.value):
            item: Sourced = self.value[part]
            return item
        return None

    def find(self, path: Sequence[str | int]) -> Sourced | None:
        """The descendant at ``path``, or None."""
        here: Sourced | None = self
        for part in path:
            here = None if here is None else here.get(part)
        return here


def sourced(value: object, where: str) -> Sourced:
    """Give plain data one origin; :class:`TypeError` for what JSON cannot hold."""
    if isinstance(value, Mapping):
        return Sourced({str(key): sourced(item, where) for key, item in value.items()}, where)
    if isinstance(value, list | tuple):
        return Sourced([sourced(item, where) for item in value], where)
    if value is None or isinstance(value, str | bool | int | float):
        return Sourced(value, where)
    raise TypeError(f"{type(value).__name__} is not allowed in a config")


def merge(old: Sourced, new: Sourced) -> Sourced:
    """``new`` over ``old``: mappings key by key, everything else replaced."""
    if not (isinstance(old.value, dict) and isinstance(new.value, dict)):
        return new
    merged = dict(old.value)
    for key, item in new.value.items():
        merged[key] = merge(merged[key], item) if key in merged else item
    return Sourced(merged, new.where)


def _scalar(node: yaml.ScalarNode) -> object:
    kind, text = node.tag.removeprefix(_TAG), node.value
    if kind == "str":
        return text
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "int":
        if len(text) > _MOST_DIGITS:
            raise ValueError(kind)
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    raise ValueError(kind)


@dataclass
class YamlReader:
    """Reads files with what they include; problems are collected, not raised."""

    problems: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    """What was read, with what it includes."""
    # Files being read, outermost first: (real path, name shown).
    _open_files: list[tuple[Path, str]] = field(default_factory=list)
    _n_files: int = 0
    _n_values: int = 0

    def read(self, path: Path) -> Sourced:
        """The merged content of a file; an unreadable one gives an empty mapping and a problem."""
        try:
            return self._read(path)
        except _TooMuchError as error:
            if self._open_files:
                raise
            self.problems.append(str(error))
            return Sourced({}, printable(path))

    def count(self, where: str) -> None:
        """Count a value of the tree; ends the reading where there are too many."""
        self._n_values += 1
        if self._n_values > MOST_VALUES:
            raise _TooMuchError(
                f"{where}: more than {MOST_VALUES:,} values with those behind aliases (*) and includes, "
                "which no config needs"
            )

    def count_file(self, where: str) -> None:
        """Count an inclusion; ends the reading where there are too many."""
        self._n_files += 1
        if self._n_files > MOST_FILES:
            raise _TooMuchError(
                f"{where}: {INCLUDE}: more than {MOST_FILES} files, each counted as often as it is included; "
                "include every file once"
            )

    def _read(self, path: Path) -> Sourced:
        shown = printable(normpath(path))
        empty = Sourced({}, shown)
        try:
            path = or_preset(path)
            shown = printable(normpath(path))
            real = path.resolve()
        except (OSError, RuntimeError):
            self.problems.append(f"{shown}: cannot be read: symbolic links that lead to each other")
            return empty
        if real in [other for other, _ in self._open_files]:
            open_names = [name for _, name in self._open_files]
            start = [other for other, _ in self._open_files].index(real)
            self.problems.append(f"files include each other: {' -> '.join([*open_names[start:], shown])}")
            return empty
        text = self._text(path, shown)
        if text is None:
            return empty
        self.files.append(real)
        self._open_files.append((real, shown))
        try:
            tree = self.parse(text, shown, path.parent)
        finally:
            self._open_files.pop()
        if tree is None or tree.value is None:
            return empty
        if not isinstance(tree.value, dict):
            kind = "a list" if isinstance(tree.value, list) else None
            kind = kind or f"the single value {printable(repr(tree.value), _MESSAGE)}"
            self.problems.append(f"{shown}: expected a mapping (key: value), found {kind}")
            return empty
        return tree

    def parse(self, text: str, shown: str, folder: Path | None = None) -> Sourced | None:
        """A tree from text; None with a problem when it is not YAML.

        ``folder`` is where included paths start; without it ``include`` is a key like any other and
        origins carry no line numbers (the text is one override's value).
        """
        if len(text) > MOST_BYTES:
            self.problems.append(f"{shown}: {len(text):,} characters are more than any config needs")
            return None
        try:
            node = yaml.compose(text, Loader=_Loader)
            return None if node is None else _Builder(self, shown, folder).build(node)
        except _TooMuchError as error:
            if folder is not None:
                raise
            self.problems.append(str(error))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f":{mark.line + 1}" if mark is not None and folder is not None else ""
            self.problems.append(
                f"{shown}{line}: not valid YAML: {printable(error.problem or error.context, _MESSAGE)}"
            )
        except (
            yaml.reader.ReaderError
        ) as error:  # a character that YAML forbids; its place is one in the text
            place = f":{text.count(chr(10), 0, error.position) + 1}" if folder is not None else ""
            unfit = printable(text[error.position : error.position + 1])
            self.problems.append(f"{shown}{place}: not valid YAML: the character {unfit} is not allowed")
        except yaml.YAMLError as error:
            self.problems.append(
                f"{shown}: not valid YAML: {printable(str(error).splitlines()[0], _MESSAGE)}"
            )
        except RecursionError:
            self.problems.append(f"{shown}: nested too deeply")
        return None

    def _text(self, path: Path, shown: str) -> str | None:
        try:
            return _bytes(path).decode("utf-8-sig")
        except FileNotFoundError:
            advice = f"; {VARIABLES_ADVICE}" if "$" in shown else ""
            self.problems.append(f"{shown}: no such file{_near(path)}{advice}")
        except IsADirectoryError:
            self.problems.append(f"{shown}: is a folder; name a YAML file in it")
        except UnicodeDecodeError as error:
            self.problems.append(f"{shown}: not UTF-8 text (byte {error.start}); save it as UTF-8")
        except OSError as error:
            self.problems.append(f"{shown}: cannot be read: {error.strerror}")
        return None


def _bytes(path: Path) -> bytes:
    with open_file(path) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"more than {MOST_BYTES:,} bytes, which no config needs")
    return content


def _near(path: Path) -> str:
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return f" (its folder {printable(normpath(path.parent))} is not there either)"
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {printable(normpath(path.parent / close[0]))}?" if close else ""


def _shown(node: yaml.Node) -> str:
    """A key that is no text, in a message."""
    return (
        f"'{printable(node.value, _MESSAGE)}'" if isinstance(node, yaml.ScalarNode) else "a list or mapping"
    )


class _Builder:
    """Turns the nodes of one document into a tree."""

    def __init__(self, reader: YamlReader, shown: str, folder: Path | None) -> None:
        self.reader, self.shown, self.folder = reader, shown, folder
        self.above: list[yaml.Node] = []

    def where(self, node: yaml.Node) -> str:
        return self.shown if self.folder is None else f"{self.shown}:{node.start_mark.line + 1}"

    def problem(self, node: yaml.Node, text: str) -> None:
        self.reader.problems.append(f"{self.where(node)}: {text}")

    def build(self, node: yaml.Node, where: str | None = None) -> Sourced:
        where = where or self.where(node)
        self.reader.count(where)
        if any(node is other for other in self.above):
            self.problem(node, "an alias (*) is inside its own anchor (&)")
            return Sourced(None, where, broken=True)
        if isinstance(node, yaml.ScalarNode):
            before = len(self.reader.problems)
            value = self.scalar(node)
            return Sourced(value, where, broken=len(self.reader.problems) > before)
        self.above.append(node)
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
                return self.mapping(node, where)
            if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
                return Sourced([self.build(child) for child in node.value], where)
        finally:
            self.above.pop()
        self.problem(node, f"the tag {node.tag.replace(_TAG, '!!')} is not allowed in a config")
        return Sourced(None, where, broken=True)

    def scalar(self, node: yaml.ScalarNode) -> object:
        unfit = _UNFIT.search(node.value)
        if unfit:
            self.problem(node, f"the character {printable(unfit[0])} is not allowed in a config")
            return None
        try:
            return _scalar(node)
        except (ValueError, OverflowError):
            self.problem(
                node, f"'{printable(node.value, _MESSAGE)}' is not a valid {node.tag.replace(_TAG, '!!')}"
            )
            return None

    def mapping(self, node: yaml.MappingNode, where: str) -> Sourced:
        own: dict[str, Sourced] = {}
        lines: dict[str, str] = {}
        included = Sourced({}, where)
        for key_node, value_node in node.value:
            key = self.scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                self.problem(key_node, f"a key must be text; quote it: {_shown(key_node)}")
            elif key == "<<":
                self.problem(key_node, f"merge keys (<<) are not supported; use {INCLUDE}: FILE")
            elif key in lines:
                self.problem(
                    key_node,
                    f"{printable(key, _MESSAGE)}: is defined twice (first at {lines[key]}); keep one",
                )
            else:
                lines[key] = self.where(key_node)
                if key == INCLUDE and self.folder is not None:
                    included = self.include(value_node, included)
                else:
                    own[key] = self.build(value_node, lines[key])
        return merge(included, Sourced(own, where))

    def include(self, node: yaml.Node, included: Sourced) -> Sourced:
        assert self.folder is not None
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for item in nodes:
            before = len(self.reader.problems)
            name = self.scalar(item) if isinstance(item, yaml.ScalarNode) else None
            if len(self.reader.problems) > before:
                continue
            if not isinstance(name, str) or not name:
                self.problem(item, f"{INCLUDE}: expected a path or a list of paths")
                continue
            self.reader.count_file(self.where(item))
            try:
                path = self.folder / user_path(name)
            except UsageError as error:
                self.problem(item, f"{INCLUDE}: {error}")
                continue
            included = merge(included, self.reader.read(path))
            if len(self.reader.problems) > before:
                self.reader.problems[before] += f" (included at {self.where(item)})"
        return included
