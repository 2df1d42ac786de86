"""Where presets are: in the package, and as ``configs/`` in a checkout."""

from __future__ import annotations

from pathlib import Path

PRESETS = Path(__file__).parents[1] / "presets"
"""Preset files by section: ``model/ad.yaml`` and so on."""

# The name by which files and commands refer to presets; in a checkout a link to PRESETS.
_FOLDER = "configs"


def or_preset(path: Path) -> Path:
    """``path``, or the preset that ``.../configs/SECTION/NAME.yaml`` names where there is no such file."""
    if _FOLDER in path.parts and not path.exists():
        last = len(path.parts) - 1 - path.parts[::-1].index(_FOLDER)
        preset = PRESETS.joinpath(*path.parts[last + 1 :])
        if preset.is_file():
            return preset
    return path
