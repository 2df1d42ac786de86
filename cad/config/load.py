"""From YAML files and dotted overrides to a frozen config, or one message with every problem.

Order: schema defaults < YAML files (what a file includes comes before its own keys; later files
win) < overrides.  Validation is strict: text is no number, a switch is no count, ``3.5`` is no
whole number; a whole number may stand where a number is expected.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

from cad.config.keys import Keys, dotted, keys_of, short
from cad.config.yaml_source import Sourced, YamlReader, merge, sourced
from cad.errors import UsageError, printable

T = TypeVar("T", bound=BaseModel)

# A word of a rule's message that names a key: with a dot or an underscore, or before "=".
_KEY_IN_RULE = re.compile(r"\b[A-Za-z]\w*(?:[._]\w+)+\b|\b[A-Za-z]\w*(?==)")

# Characters of an override that a message repeats.
_SHOWN = 80
_LONGEST_KEY = 300  # characters
_MOST_PROBLEMS = 50  # in one message
# Written keys that a message about defaults names.
_WRITTEN = 6

DEFAULT = "default"
OVERRIDE = "override"


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """A config and, for every dotted key, where its value came from.

    ``origin`` has the keys of :func:`flatten`; its values are ``default``, ``FILE:LINE`` or
    ``override``.  ``files`` are those that were read, with what they include.
    """

    value: T
    origin: dict[str, str]
    tree: Sourced
    files: tuple[Path, ...] = ()

    def place(self, path: Sequence[str | int]) -> str:
        """``FILE:LINE`` (or ``override``) of the value at ``path``, or else of what is nearest around it."""
        return _place(path, self.tree).removesuffix(": ")

    def is_written(self, path: Sequence[str | int]) -> bool:
        """Whether a file or an override has a value at ``path``."""
        return self.tree.find(path) is not None


def load(model_cls: type[T], files: Sequence[Path], overrides: Sequence[str] = ()) -> Loaded[T]:
    """Read ``files``, then apply ``overrides`` (``key.path=value``, the value as YAML).

    Raises :class:`UsageError` that lists all problems, each with file, line, key and what is allowed.
    """
    reader = YamlReader()
    tree = Sourced({}, "")
    for file in files:
        tree = merge(tree, reader.read(file))
    # With a file missing, what depends on its content cannot be judged.
    whole = not reader.problems
    problems = reader.problems
    for text in overrides:
        tree = _apply_text(tree, model_cls, text, reader)
    value, further = _validate(model_cls, tree, whole=whole, origins=True)
    problems = [*problems, *further]
    if problems or value is None:
        raise UsageError(_listed(problems, "the configuration"))
    origin = {}
    for path, _ in _leaves(value):
        item = tree.find(path)
        origin[dotted(path)] = DEFAULT if item is None else item.where
    return Loaded(value, origin, tree, tuple(dict.fromkeys(reader.files)))


def from_mapping(model_cls: type[T], mapping: object, origin_name: str) -> T:
    """Validate plain data, such as a run directory's JSON; :class:`UsageError` names ``origin_name``."""
    if not isinstance(mapping, Mapping):
        raise UsageError(f"{origin_name}: expected a mapping of config keys, found {short(mapping)}")
    try:
        tree = sourced(mapping, "")
    except TypeError as error:
        raise UsageError(f"{origin_name}: {error}") from error
    return _required(model_cls, tree, [], origin_name)


def apply_overrides(
    model_cls: type[T], data: Mapping[str, object], mapping: Mapping[str, object], where: str
) -> T:
    """The config of plain ``data`` with dotted keys replaced; ``where`` is named in errors.

    A mapping as new value of a section is merged into it.  Raises :class:`UsageError`.
    """
    tree = sourced(data, "")
    problems: list[str] = []
    for key, item in mapping.items():
        try:
            tree, problem = _put(tree, model_cls, key, sourced(item, ""))
        except TypeError as error:
            problem = f"{key}: {error}"
        if problem:
            problems.append(problem)
    return _required(model_cls, tree, problems, where)


def flatten(value: BaseModel) -> dict[str, object]:
    """Dotted key to value as in JSON, in the model's order; lists and free mappings are single values."""
    return {dotted(path): to_jsonable_python(item) for path, item in _leaves(value)}


def _leaves(value: BaseModel, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    for name in type(value).model_fields:
        item = getattr(value, name)
        if isinstance(item, BaseModel):
            yield from _leaves(item, (*path, name))
        elif isinstance(item, dict) and item and all(isinstance(v, BaseModel) for v in item.values()):
            for key, section in item.items():
                yield from _leaves(section, (*path, name, key))
        else:
            yield (*path, name), item


def _apply_text(tree: Sourced, model_cls: type[BaseModel], text: str, reader: YamlReader) -> Sourced:
    read = _read_override(text, reader)
    if read is None:
        return tree
    tree, problem = _put(tree, model_cls, read[0], sourced(read[1], OVERRIDE))
    if problem:
        reader.problems.append(f"{_named(text)}: {problem}")
    return tree


def read_override(text: str) -> tuple[str, object]:
    """Dotted key and value of a word ``key.path=value``; the value is YAML.  Raises :class:`UsageError`."""
    reader = YamlReader()
    read = _read_override(text, reader)
    if read is None:
        raise UsageError(_listed(reader.problems, "the overrides"))
    return read


def _named(override: str) -> str:
    return f"override '{printable(override, _SHOWN)}'"


def _read_override(text: str, reader: YamlReader) -> tuple[str, object] | None:
    """Key and value of an override; None with a problem."""
    key, equals, written = text.partition("=")
    key = key.strip()
    if not equals or not key or len(key) > _LONGEST_KEY:
        reader.problems.append(f"{_named(text)}: expected KEY=VALUE, such as seed=1")
        return None
    if not written.strip():
        name = printable(key, _SHOWN)
        reader.problems.append(f"{_named(text)}: no value after '='; write {name}=null or {name}='\"\"'")
        return None
    before = len(reader.problems)
    item = reader.parse(written, _named(text))
    if len(reader.problems) > before:
        return None
    return key, None if item is None else item.plain()


def _put(tree: Sourced, model_cls: type[BaseModel], key: str, item: Sourced) -> tuple[Sourced, str | None]:
    """``tree`` with ``item`` at a dotted key, or the old tree and what is wrong with the key."""
    parts = key.split(".")
    if not all(parts):
        return tree, f"'{printable(key, _SHOWN)}' is not a dotted key such as section.key"
    for depth in range(1, len(parts)):
        above = parts[:depth]
        held = tree.find(above)
        if held is not None and isinstance(held.value, dict):
            continue  # without the schema, which takes longer to make than all cells of an experiment
        keys = keys_of(model_cls)
        schema = keys.at(above)
        if schema is not None and not keys.takes_mapping(schema):
            return tree, f"{key}: {dotted(above)} is {keys.words(schema)}, not a section; set it as a whole"
        if held is not None and held.value is not None:
            place = f" ({held.where})" if held.where else ""
            return tree, f"{key}: {dotted(above)} is {short(held.plain())}{place}, not a section"
    for part in reversed(parts):
        item = Sourced({part: item}, item.where)
    return merge(tree, item), None


def _required(model_cls: type[T], tree: Sourced, problems: list[str], where: str) -> T:
    value, further = _validate(model_cls, tree, whole=not problems, origins=False)
    problems = [*problems, *further]
    if problems or value is None:
        text = _listed(problems, where)
        raise UsageError(text if len(problems) > 1 else f"{where}: {text}")
    return value


def _listed(problems: list[str], where: str) -> str:
    problems = list(dict.fromkeys(problems))
    if len(problems) > _MOST_PROBLEMS:
        left_out = f"... and {len(problems) - _MOST_PROBLEMS} more"
        problems = [*problems[:_MOST_PROBLEMS], left_out]
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} problems in {where}:" + "".join(f"\n  - {text}" for text in problems)


def _validate(model_cls: type[T], tree: Sourced, whole: bool, origins: bool) -> tuple[T | None, list[str]]:
    """The config, or every problem; a tree that is not ``whole`` is not blamed for missing parts."""
    try:
        # JSON's strict mode is what YAML needs: lists become tuples, yet no type is converted.
        return model_cls.model_validate_json(json.dumps(tree.plain()), strict=True), []
    except ValidationError as error:
        keys = keys_of(model_cls)
        details = error.errors(include_url=False)
        wrong_inside = {detail["loc"][:depth] for detail in details for depth in range(len(detail["loc"]))}
        return None, [
            _problem(detail, keys, tree, origins)
            for detail in details
            if whole or detail["type"] not in ("missing", "value_error")
            # A list with a wrong item is also reported as too short: its items say what is wrong.
            if detail["loc"] not in wrong_inside and not _is_broken(keys.resolve(detail["loc"])[0], tree)
        ]


def _is_broken(path: Sequence[str | int], tree: Sourced) -> bool:
    item = tree.find(path)
    return item is not None and item.broken


def _problem(detail: Any, keys: Keys, tree: Sourced, origins: bool) -> str:
    kind: str = detail["type"]
    path, schema, chosen = keys.resolve(detail["loc"])
    if kind == "value_error":
        return _rule(path, str(detail["ctx"]["error"]), keys, tree, origins)
    if kind == "extra_forbidden":
        path = (*path, detail["loc"][-1])
        text = f"unknown key; {keys.suggest(path, chosen)}"
    elif kind == "missing":
        text = f"missing; it takes {keys.words(schema)}"
    elif kind == "json_invalid":
        text = f"cannot be represented: {detail['msg']}"
    else:
        value = detail["input"]
        if kind == "union_tag_invalid":
            # The error is the section's; what is wrong is the key that names its kind.
            tag = keys.tag(schema)
            path, schema, value = (*path, tag), keys.child(schema, tag) or schema, value.get(tag)
        text = f"expected {keys.words(schema)}, found {short(value)}"
        if kind == "less_than_equal" and (bound := keys.reason(schema)):
            text = f"expected at most {bound}, found {short(value)}"
        choices = [str(v) for option in keys.options(schema) for v in option.get("enum", [])]
        close = difflib.get_close_matches(str(value), choices, n=1)
        text += f"; did you mean {close[0]}?" if close else ""
    name = printable(dotted(path), _SHOWN)
    return f"{_place(path, tree)}{name}: {text}" if path else f"{_place(path, tree)}{text}"


def _place(path: Sequence[str | int], tree: Sourced) -> str:
    """Where the value at ``path``, or else the nearest section around it, was written."""
    for depth in range(len(path), -1, -1):
        item = tree.find(path[:depth])
        if item is not None:
            return f"{item.where}: " if item.where else ""
    return ""


def _rule(path: Sequence[str | int], text: str, keys: Keys, tree: Sourced, origins: bool) -> str:
    """A broken cross-field rule, with the origin of every key that its message names."""
    label = f"{dotted(path)}: " if path else ""
    notes = []
    blamed = False
    for name in dict.fromkeys(_KEY_IN_RULE.findall(text)) if origins else ():
        full = keys.named(name, path)
        if full is not None:
            item = tree.find(full)
            notes.append(f"{name}: {DEFAULT if item is None else item.where}")
            blamed = blamed or item is not None
    found = tree.find(path)
    if origins and not blamed and found is not None and isinstance(found.value, dict):
        # All that it names are defaults: what does not go with them is what was written.
        notes += [f"{dotted(full)}: {item.where}" for full, item in _written(tree, path)[:_WRITTEN]]
    return f"{label}{text} ({'; '.join(notes)})" if notes else f"{_place(path, tree)}{label}{text}"


def _written(tree: Sourced, path: Sequence[str | int]) -> list[tuple[Sequence[str | int], Sourced]]:
    """The single values that were written at or below ``path``."""
    item = tree.find(path)
    if item is None:
        return []
    if not isinstance(item.value, dict):
        return [(path, item)]
    return [found for key in item.value for found in _written(tree, (*path, key))]
