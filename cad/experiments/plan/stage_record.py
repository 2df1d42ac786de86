"""What a finished stage records in ``DONE``: which kinds of values its keys have.

Stages of earlier versions recorded fewer keys, so none has to be there.  Keys that are not listed are left
to who reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cad.errors import printable

_TOO_MUCH = 1e18  # of seconds, bytes, updates


def wrong_value(record: Mapping[str, Any]) -> str | None:
    """In words, the first value of a record that is of no kind that is written; None where all are."""
    return _wrong(record, _KINDS) or _wrong(record.get("made_by", {}), _MADE_BY, "made_by.")


def _wrong(record: Mapping[str, Any], kinds: Mapping[str, _Kind], section: str = "") -> str | None:
    for key, (is_right, words) in kinds.items():
        if key in record and not is_right(record[key]):
            return f"{section}{key} is {printable(repr(record[key]), 40)}, not {words}"
    return None


_Kind = tuple[Callable[[Any], bool], str]


def _is_number(value: Any) -> bool:
    # A clock that is set back makes seconds negative.
    return type(value) in (int, float) and abs(value) < _TOO_MUCH


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _TOO_MUCH


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_machine(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() >= {"architecture", "processor", "cores", "memory_gib"}


_NUMBER: _Kind = (_is_number, "a number")
_COUNT: _Kind = (_is_count, "a whole number from 0")
_TEXT: _Kind = (_is_text, "text")
_TEXTS: _Kind = (_is_texts, "texts by name")
_KINDS: Mapping[str, _Kind] = {
    **dict.fromkeys(
        ("wall_seconds", "cpu_seconds", "collect_seconds", "workers_cpu_seconds", "train_seconds"), _NUMBER
    ),
    **dict.fromkeys(("steps_per_second", "peak_memory_bytes", "workers_memory_bytes"), _NUMBER),
    **dict.fromkeys(("attempts", "cores", "workers", "ranks", "pack", "task_of", "collected"), _COUNT),
    **dict.fromkeys(("updates", "supervised_actions", "parameters"), _COUNT),
    **dict.fromkeys(("device", "engine"), _TEXT),
    "outputs": _TEXTS,
    "made_by": (lambda value: isinstance(value, dict), "a JSON object"),
}
_MADE_BY: Mapping[str, _Kind] = {
    "code_version": _TEXT,
    "image_sha256": _TEXT,
    "packages": _TEXTS,
    "own_code": _TEXTS,
    "machine": (_is_machine, "a machine's architecture, processor, cores and memory"),
}
