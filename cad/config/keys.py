"""The keys of a config model: what each one takes, in words, and the nearest ones to a wrong name.

Everything is read from the model's JSON schema, so that this works for any config model.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from cad.config.yaml_source import INCLUDE
from cad.errors import printable

Path = Sequence[str | int]
Schema = dict[str, Any]
ANY_ITEM = "[]"
ANY_NAME = "<name>"
REASON = "$comment"
"""JSON schema's keyword for notes: why there is an upper bound."""
FORMER_NAMES = "x-former-names"
"""A section's keys of earlier versions, with what to write instead."""


class KeyRow(NamedTuple):
    """One key: dotted name, what it takes, default (as YAML would write it) and description."""

    key: str
    type: str
    default: str
    description: str


def dotted(path: Path) -> str:
    """``("arms", 0, "set")`` as ``arms[0].set``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part == ANY_ITEM:
            text += part
        else:
            text += f".{part}" if text else part
    return text


def short(value: object, limit: int = 60) -> str:
    """A value as a config would write it, cut to ``limit`` characters."""
    if isinstance(value, dict):
        value_text = f"a mapping with {', '.join(map(str, value)) or 'no keys'}"
    else:
        value_text = json.dumps(value, ensure_ascii=False, default=str)
    return printable(value_text, limit)


class Keys:
    """The keys of one model class."""

    def __init__(self, model_cls: type[BaseModel]) -> None:
        self.root: Schema = model_cls.model_json_schema()
        self.rows: list[KeyRow] = []
        self.paths: list[tuple[str, ...]] = []
        self._walk(self.root, (), None)

    def options(self, schema: Schema) -> Iterator[Schema]:
        """The alternatives of a schema with references followed."""
        if "$ref" in schema:
            schema = self.root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
        alternatives = schema.get("anyOf", schema.get("oneOf"))
        if alternatives is not None:
            for option in alternatives:
                yield from self.options(option)
        else:
            yield schema

    def child(self, schema: Schema, part: str | int) -> Schema | None:
        """The schema under a key or an index; None where there is no such key."""
        below = [item for option in self.options(schema) if (item := _child_of(option, part)) is not None]
        if len(below) > 1 and all("const" in item for item in below):
            return {"type": "string", "enum": [item["const"] for item in below]}  # the key that names a kind
        return below[0] if below else None

    def resolve(self, loc: Path) -> tuple[tuple[str | int, ...], Schema, str | None]:
        """The part of an error's location that is keys, the schema there, and its kind of section.

        Unions add names of their own to a location; where such a name is a kind's (of a section whose
        keys depend on it), the schema is that kind's.
        """
        path: tuple[str | int, ...] = ()
        schema, kind = self.root, None
        for part in loc:
            # A kind comes first: it may be called as one of its keys (source.kind and source.learner).
            chosen = self._kinds(schema).get(str(part)) if kind is None else None
            if chosen is not None:
                schema, kind = chosen, str(part)
                continue
            below = self.child(schema, part)
            if below is None:
                break
            path, schema, kind = (*path, part), below, None
        return path, schema, kind

    def tag(self, schema: Schema) -> str:
        """The key that names the kind of a section whose keys depend on it."""
        tags: Iterator[str] = (
            name
            for option in self.options(schema)
            for name, item in option.get("properties", {}).items()
            if "const" in item
        )
        return next(tags)

    def _kinds(self, schema: Schema) -> dict[str, Schema]:
        """The kinds of a section whose keys depend on it; empty for other sections."""
        return {
            item["const"]: option
            for option in self.options(schema)
            for item in option.get("properties", {}).values()
            if "const" in item
        }

    def at(self, path: Path) -> Schema | None:
        """The schema at a path; None where the path leaves the model."""
        here: Schema | None = self.root
        for part in path:
            here = None if here is None else self.child(here, part)
        return here

    def section_keys(self, schema: Schema) -> list[str]:
        """Names of a section's keys; empty for a single value."""
        names = [name for option in self.options(schema) for name in option.get("properties", {})]
        return list(dict.fromkeys(names))

    def takes_mapping(self, schema: Schema) -> bool:
        """Whether anything can be below this key."""
        return any(option.get("type", "object") == "object" for option in self.options(schema))

    def reason(self, schema: Schema) -> str:
        """The upper bound of a number and why there is one; empty where there is no reason."""
        for option in self.options(schema):
            if REASON in option:
                return f"{_digits(option['maximum'])} ({option[REASON]})"
        return ""

    def words(self, schema: Schema) -> str:
        """What a key takes: ``a whole number above 0, or null``."""
        return ", or ".join(dict.fromkeys(self._words(option) for option in self.options(schema)))

    def _words(self, schema: Schema) -> str:
        if "enum" in schema or "const" in schema:
            values = schema.get("enum", [schema.get("const")])
            return ("one of " if len(values) > 1 else "") + ", ".join(map(str, values))
        kind = schema.get("type", "any")
        if kind == "array":
            return self._list_words(schema)
        if kind == "object":
            return self._mapping_words(schema)
        pattern = schema.get("pattern")
        longest = f", of at most {schema['maxLength']} characters" if "maxLength" in schema else ""
        names = {
            "integer": "a whole number" + _bounds(schema),
            "number": "a number" + _bounds(schema),
            "boolean": "true or false",
            "null": "null",
            "string": "text" + (f" that matches {pattern}" if pattern else "") + longest,
        }
        return names.get(kind, "any value")

    def _mapping_words(self, schema: Schema) -> str:
        if "properties" in schema:
            names = list(schema["properties"])
            return f"a section (keys {', '.join(names[:6])}{', ...' if len(names) > 6 else ''})"
        values = schema.get("additionalProperties")
        return "a mapping" + (f" of names to: {self.words(values)}" if isinstance(values, dict) else "")

    def _list_words(self, schema: Schema) -> str:
        if fixed := schema.get("prefixItems"):
            return f"a list of {len(fixed)}: {'; '.join(self.words(item) for item in fixed)}"
        items = schema.get("items")
        least = f" of at least {schema['minItems']}" if schema.get("minItems") else ""
        return f"a list{least}" + (f" (each {self.words(items)})" if items else "")

    def suggest(self, path: Path, kind: str | None = None) -> str:
        """What the unknown key at ``path`` may have meant, or what is allowed in its place.

        ``kind`` is that of the section, where its keys depend on it.
        """
        *parent, name = path
        section = self.at(parent) or self.root
        for option in self.options(section):
            if name in option.get(FORMER_NAMES, {}):
                return f"it is now {option[FORMER_NAMES][name]}"
        kinds = self._kinds(section)
        owners = [other for other, option in kinds.items() if name in option["properties"]]
        if owners:
            tag = f"{dotted(parent)}.{self.tag(section)}"
            return f"it is a key of {tag}={' or '.join(owners)}, and {tag} is {kind}"
        allowed = self.section_keys(kinds.get(str(kind), section))
        name = str(name).lower()
        if "." in name and self.at([*parent, *name.split(".")]) is not None:
            head, _, rest = name.partition(".")
            return f"write it nested: {head}: {{{rest.replace('.', ': {')}: ...{'}' * rest.count('.')}}}"
        close = [dotted([*parent, key]) for key in difflib.get_close_matches(name, allowed, n=1, cutoff=0.6)]
        same = [dotted(key) for key in self.paths if key[-1].lower() == name]
        if not close and not same:
            leaves = difflib.get_close_matches(name, {key[-1] for key in self.paths}, n=1, cutoff=0.75)
            same = [dotted(key) for key in self.paths if key[-1] in leaves]
        matches = list(dict.fromkeys(close + same))[:3]
        if matches:
            return f"did you mean {', '.join(matches[:-1])}{' or ' if len(matches) > 1 else ''}{matches[-1]}?"
        return f"allowed here: {', '.join(allowed)}"

    def named(self, name: str, section: Path) -> tuple[str | int, ...] | None:
        """The value that ``name`` means in a message about a section; None when it is not one key."""
        full = (*section, *name.split("."))
        if self.at(full) is None:
            same = [p for p in self.paths if p[-1] == name and p[: len(section)] == tuple(section)]
            if len(same) != 1:
                return None
            full = same[0]
        schema = self.at(full)
        return None if schema is None or self.section_keys(schema) else full

    def _walk(self, schema: Schema, path: tuple[str, ...], defaults: Schema | None) -> None:
        for name in self.section_keys(schema):
            self.paths.append((*path, name))
            for item, required, kinds in self._versions(schema, name):
                default = (defaults or {}).get(name, item.get("default"))
                if not self._walk_below(item, (*path, name), default):
                    missing = required and name not in (defaults or {})
                    shown = "required" if missing else json.dumps(default, ensure_ascii=False)
                    text = (f"{', '.join(kinds)}: " if kinds else "") + item.get("description", "")
                    self.rows.append(KeyRow(dotted((*path, name)), self.words(item), shown, text))

    def _versions(self, schema: Schema, name: str) -> Iterator[tuple[Schema, bool, list[str]]]:
        """A key's schema, whether it is required, and the kinds of section that have it so.

        No kinds are named where all have it alike.
        """
        owners = [option for option in self.options(schema) if name in option.get("properties", {})]
        kinds = {id(option): kind for kind, option in self._kinds(schema).items()}
        if kinds and name == self.tag(schema):
            words = "; ".join(
                f"{o['properties'][name]['const']}: {o.get('description', '').replace('``', '')}"
                for o in owners
            )
            yield {"type": "string", "enum": list(kinds.values()), "description": words}, False, []
            return
        versions: list[tuple[Schema, bool, list[str]]] = []
        for option in owners:
            item, required = option["properties"][name], name in option.get("required", [])
            for known, _, names in versions:
                if known == item:
                    names.append(kinds.get(id(option), ""))
                    break
            else:
                versions.append((item, required, [kinds.get(id(option), "")]))
        for item, required, names in versions:
            yield item, required, [] if len(names) == max(1, len(kinds)) else names

    def _walk_below(self, schema: Schema, path: tuple[str, ...], default: Any) -> bool:
        """Walk the sections inside a key; False where it holds none."""
        if self.section_keys(schema):
            self._walk(schema, path, default if isinstance(default, dict) else None)
            return True
        for option in self.options(schema):
            for inner, part in (("items", ANY_ITEM), ("additionalProperties", ANY_NAME)):
                item = option.get(inner)
                if isinstance(item, dict) and self.section_keys(item):
                    self._walk(item, (*path, part), None)
                    return True
        return False


def _child_of(option: Schema, part: str | int) -> Schema | None:
    """The schema under a key or an index of one alternative."""
    if isinstance(part, int):
        fixed: list[Schema] = option.get("prefixItems", [])
        below = fixed[part] if part < len(fixed) else option.get("items")
    else:
        below = option.get("properties", {}).get(part, option.get("additionalProperties"))
        for pattern, item in option.get("patternProperties", {}).items():
            below = item if re.search(pattern, part) else below
    return below if isinstance(below, dict) else None


def _bounds(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if REASON in schema:
        high = None  # a bound that only mistakes meet: messages give it then, with its reason
    if low is not None and high is not None:
        return f" from {_digits(low)} to {_digits(high)}"
    names = (
        ("exclusiveMinimum", "above"),
        ("minimum", "at least"),
        ("exclusiveMaximum", "below"),
        ("maximum", "at most"),
    )
    shown = {"maximum"} if REASON in schema else set()
    parts = [f"{word} {_digits(schema[name])}" for name, word in names if name in schema.keys() - shown]
    return " " + " and ".join(parts) if parts else ""


def _digits(number: float) -> str:
    """A bound as a config would write it: whole numbers with all their digits."""
    return str(number) if isinstance(number, int) else f"{number:g}"


@functools.cache
def keys_of(model_cls: type[BaseModel]) -> Keys:
    """The keys of a model class."""
    return Keys(model_cls)


def describe(model_cls: type[BaseModel]) -> list[KeyRow]:
    """Every key that holds a value, in the model's order."""
    return keys_of(model_cls).rows


def json_schema(model_cls: type[BaseModel]) -> dict[str, Any]:
    """JSON schema of the YAML files of a model, for editors: the model's own, plus ``include``."""
    schema = model_cls.model_json_schema()
    paths = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    for section in (schema, *schema.get("$defs", {}).values()):
        if "properties" in section:
            section["properties"][INCLUDE] = paths | {
                "description": "YAML files merged in below this mapping's own keys; later ones win."
            }
            # An included file may bring a required key.
            section.pop("required", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
