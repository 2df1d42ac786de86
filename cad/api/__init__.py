"""The interface for scripts and notebooks; its names are those of ``cad`` itself (docs/python.md)."""

from __future__ import annotations

from cad.api.agent import Agent, AgentMemory, load_agent
from cad.api.experiments import load_config, load_results, run
from cad.api.results import CellOutcome, Results
from cad.errors import CadError
from cad.histories.file import Histories, open_histories
from cad.schema import Config

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
