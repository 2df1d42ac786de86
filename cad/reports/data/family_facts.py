"""What the report needs to know of a task family."""

from __future__ import annotations

import textwrap

from cad.config import LearnerConfig
from cad.envs.registry import task_family
from cad.reports.data.measure import OPTIMUM, measure_of
from cad.schema import Config


def task_noun(config: Config | None) -> str:
    """``goal`` where a task is one place of the grid, else ``task``."""
    return "task" if config is None else task_family(config.env).task_noun


def described_task(config: Config | None, task_id: int, longest: int = 60) -> str | None:
    """A task in its family's words, without what is beyond ``longest`` characters; None for single goals.

    Those are named by their place.
    """
    if config is None or (family := task_family(config.env)).task_noun == "goal":
        return None
    return textwrap.shorten(" ".join(family.describe(task_id).split()), longest, placeholder=" …")


def goal_map_size(config: Config) -> int | None:
    """Width of the grid where each task is one goal (row, column) on it; None for other families."""
    family = task_family(config.env)
    return family.spaces.field_sizes[0] if list(family.hidden_places) == ["goal"] else None


def divided_by(config: Config) -> str | None:
    """What returns are divided by and counted from where somebody stated it; None elsewhere."""
    family = task_family(config.env)
    return family.score_in_words if not family.has_rules and family.has_optimum else None


def stated_optimum(config: Config) -> str | None:
    """What scores are where they are not return / optimum; None where they are."""
    family, measure = task_family(config.env), measure_of(config)
    if measure.unit == OPTIMUM.unit:
        base = family.random_return
        return f"Returns and optima are both counted from a random_return of {base:g}." if base else None
    return f"The optimum is not known: returns are divided by {family.score_in_words}."


def rewards_tell(config: Config) -> bool:
    """Whether a return above 0 means that something was found."""
    return task_family(config.evaluated_env).rewards_tell


def source_agent(config: Config) -> str:
    """The kind of agent whose histories were learned from; of a scripted learner, also which one."""
    if not isinstance(config.source, LearnerConfig):
        return config.source.AGENT
    learners = task_family(config.env).scripted_learners
    return f"{config.source.AGENT} ({learners[config.source.learner or next(iter(learners))].title})"
