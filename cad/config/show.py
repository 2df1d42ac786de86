"""A resolved config as YAML text that says where each value came from and can be used as a config."""

from __future__ import annotations

from typing import Any

import yaml

from cad.config.keys import dotted
from cad.config.load import Loaded
from cad.config.yaml_source import ConfigDumper

_COMMENT_COLUMN = 40


def show(loaded: Loaded[Any]) -> str:
    """YAML text; every value's line ends in ``# from`` and its origin."""
    lines: list[str] = []
    _section(loaded.value.model_dump(mode="json"), (), loaded.origin, lines)
    return "\n".join(lines) + "\n"


def _section(data: dict[str, Any], path: tuple[str, ...], origin: dict[str, str], lines: list[str]) -> None:
    indent = "  " * len(path)
    for name, item in data.items():
        here = (*path, name)
        key = f"{indent}{_dump(name)}:"
        if isinstance(item, dict) and item and dotted(here) not in origin:
            lines.append(key)
            _section(item, here, origin, lines)
            continue
        first, *rest = _block(item, indent)
        text = key + first
        lines.append(f"{text:<{_COMMENT_COLUMN}}  # from {origin[dotted(here)]}")
        lines.extend(rest)


def _dump(item: object, **style: Any) -> str:
    text: str = yaml.dump(
        item, Dumper=ConfigDumper, width=float("inf"), sort_keys=False, allow_unicode=True, **style
    )
    return text.removesuffix("...\n").rstrip("\n")


def _block(item: object, indent: str) -> list[str]:
    """What follows ``key:``; first the rest of its own line, then lines of their own."""
    nested = isinstance(item, list) and any(isinstance(part, dict | list) for part in item)
    if nested or (isinstance(item, dict) and item):
        return ["", *(f"{indent}  {line}" for line in _dump(item, default_flow_style=None).splitlines())]
    return [" " + _dump(item, default_flow_style=True)]
