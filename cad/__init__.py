"""cad: compressed algorithm distillation as a batch workflow.

For scripts and notebooks: :func:`load_agent`, :func:`run`, :func:`load_results` and what they give, all of
:mod:`cad.api`, which is imported when one of its names is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from cad.api import (
        Agent,
        AgentMemory,
        CadError,
        CellOutcome,
        Config,
        Histories,
        Results,
        load_agent,
        load_config,
        load_results,
        open_histories,
        run,
    )

__all__ = [
    "Agent",
    "AgentMemory",
    "CadError",
    "CellOutcome",
    "Config",
    "Histories",
    "Results",
    "load_agent",
    "load_config",
    "load_results",
    "open_histories",
    "run",
]


def __getattr__(name: str) -> object:
    """A name of :mod:`cad.api`: `import cad` alone waits for nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'cad' has no attribute {name!r}")
    return getattr(importlib.import_module("cad.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
