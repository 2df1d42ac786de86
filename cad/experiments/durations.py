"""Durations for people to read, and what was or will be spent."""

from __future__ import annotations

from collections.abc import Mapping


def clock_time(seconds: float) -> str:
    """``0:40``, ``12:05``, ``3:05:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration_in_words(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 05 min``, ``2 d 4 h``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def hours_in_words(by_kind: Mapping[str, float], unit: str = "core-hours") -> str:
    """``2.9 core-hours (histories 0.1, train 2.8)``: estimates and results say it alike."""
    parts = ", ".join(f"{kind} {_hours(spent)}" for kind, spent in by_kind.items())
    return f"{_hours(sum(by_kind.values()))} {unit} ({parts})"


def _hours(hours: float) -> str:
    return f"{hours:.2g}" if hours < 9.5 else f"{hours:.0f}"
