"""YAML files as trees that remember the line of every value; ``include`` and deep merging.

The dialect is YAML 1.2's core schema on PyYAML's :class:`yaml.SafeLoader`: ``1e-3`` is a number,
``on``, ``off``, ``yes`` and ``no`` are text (a switch is ``true`` or ``false``), ``1:30:00`` and
``2026-01-01`` are text.  Keys that are defined twice, tags and merge keys are refused.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os.path import normpath
from pathlib import Path
from typing import Any

import yaml

from cad.config.presets import or_preset

INCLUDE = "include"
_TAG = "tag:yaml.org,2002:"
_NUMBER_START = list("-+.0123456789")
_SCALARS = (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", _NUMBER_START),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", _NUMBER_START),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", _NUMBER_START),
)


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2."""


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
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    raise ValueError(kind)


@dataclass
class YamlReader:
    """Reads files with what they include; problems are collected, not raised."""

    problems: list[str] = field(default_factory=list)
    # Files being read, outermost first: (real path, name shown).
    _open_files: list[tuple[Path, str]] = field(default_factory=list)

    def read(self, path: Path) -> Sourced:
        """The merged content of a file; an unreadable one gives an empty mapping and a problem."""
        path = or_preset(path)
        shown = normpath(path)
        empty = Sourced({}, shown)
        real = path.resolve()
        if real in [other for other, _ in self._open_files]:
            names = [name for _, name in self._open_files]
            start = [other for other, _ in self._open_files].index(real)
            self.problems.append(f"files include each other: {' -> '.join([*names[start:], shown])}")
            return empty
        text = self._text(path, shown)
        if text is None:
            return empty
        self._open_files.append((real, shown))
        try:
            tree = self.parse(text, shown, path.parent)
        finally:
            self._open_files.pop()
        if tree is None or tree.value is None:
            return empty
        if not isinstance(tree.value, dict):
            kind = "a list" if isinstance(tree.value, list) else f"the single value {tree.value!r}"
            self.problems.append(f"{shown}: expected a mapping (key: value), found {kind}")
            return empty
        return tree

    def parse(self, text: str, shown: str, folder: Path | None = None) -> Sourced | None:
        """A tree from text; None with a problem when it is not YAML.

        ``folder`` is where included paths start; without it ``include`` is a key like any other and
        origins carry no line numbers (the text is one override's value).
        """
        try:
            node = yaml.compose(text, Loader=_Loader)
            return None if node is None else _Builder(self, shown, folder).build(node)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f":{mark.line + 1}" if mark is not None and folder is not None else ""
            self.problems.append(f"{shown}{line}: not valid YAML: {error.problem or error.context}")
        except yaml.YAMLError as error:
            self.problems.append(f"{shown}: not valid YAML: {str(error).splitlines()[0]}")
        except RecursionError:
            self.problems.append(f"{shown}: nested too deeply")
        return None

    def _text(self, path: Path, shown: str) -> str | None:
        try:
            return path.read_bytes().decode("utf-8-sig")
        except FileNotFoundError:
            self.problems.append(f"{shown}: no such file{_near(path)}")
        except IsADirectoryError:
            self.problems.append(f"{shown}: is a folder; name a YAML file in it")
        except UnicodeDecodeError as error:
            self.problems.append(f"{shown}: not UTF-8 text (byte {error.start}); save it as UTF-8")
        except OSError as error:
            self.problems.append(f"{shown}: cannot be read: {error.strerror}")
        return None


def _near(path: Path) -> str:
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return f" (its folder {normpath(path.parent)} is not there either)"
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {normpath(path.parent / close[0])}?" if close else ""


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
        if any(node is other for other in self.above):
            self.problem(node, "an alias (*) is inside its own anchor (&)")
            return Sourced(None, where)
        if isinstance(node, yaml.ScalarNode):
            return Sourced(self.scalar(node), where)
        self.above.append(node)
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
                return self.mapping(node, where)
            if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
                return Sourced([self.build(child) for child in node.value], where)
        finally:
            self.above.pop()
        self.problem(node, f"the tag {node.tag.replace(_TAG, '!!')} is not allowed in a config")
        return Sourced(None, where)

    def scalar(self, node: yaml.ScalarNode) -> object:
        try:
            return _scalar(node)
        except ValueError:
            self.problem(node, f"{node.value[:40]!r} is not a valid {node.tag.replace(_TAG, '!!')}")
            return None

    def mapping(self, node: yaml.MappingNode, where: str) -> Sourced:
        own: dict[str, Sourced] = {}
        lines: dict[str, str] = {}
        included = Sourced({}, where)
        for key_node, value_node in node.value:
            key = self.scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                self.problem(key_node, f"a key must be text; quote it: {getattr(key_node, 'value', '')!r}")
            elif key == "<<":
                self.problem(key_node, f"merge keys (<<) are not supported; use {INCLUDE}: FILE")
            elif key in lines:
                self.problem(key_node, f"{key}: is defined twice (first at {lines[key]}); keep one")
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
            name = self.scalar(item) if isinstance(item, yaml.ScalarNode) else None
            if not isinstance(name, str) or not name:
                self.problem(item, f"{INCLUDE}: expected a path or a list of paths")
                continue
            before = len(self.reader.problems)
            included = merge(included, self.reader.read(self.folder / name))
            if len(self.reader.problems) > before:
                self.reader.problems[before] += f" (included at {self.where(item)})"
        return included
