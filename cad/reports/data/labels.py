"""Names of models, goals and episodes in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable

from cad.reports.data.cells import LAST_EPISODES, TaskScore, last_episodes
from cad.reports.data.family_facts import described_task, task_noun
from cad.reports.data.model_result import ModelResult
from cad.reports.data.model_returns import FEW_SEEDS
from cad.reports.data.study import Study


def plural(count: int, word: str) -> str:
    """``1 goal``, ``2 goals``."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def interval_phrase(low: float, high: float, n_seeds: int) -> str:
    """The 95% interval of a difference with what it covers, in brackets; empty where there is none."""
    if not math.isfinite(low):
        return ""
    over = "seeds and tasks" if n_seeds > FEW_SEEDS else f"tasks, with {plural(n_seeds, 'seed')}"
    return f" [{low:+.3f}, {high:+.3f} over {over}]"


def intervals_over(study: Study, counts: Iterable[int] | None = None) -> str:
    """What a study's 95% intervals cover, for captions: ``tasks; one training seed does not show ...``.

    ``counts`` are the seeds that each interval rests on; by default those of the models.
    """
    each = [len(model.done) for model in study.scored] if counts is None else list(counts)
    seeds = max(each, default=0)
    if any(len(model.task_scores) < 2 for model in study.scored):
        return "tasks; one task does not show how tasks vary, and has none"
    if seeds > FEW_SEEDS:
        every = all(count > FEW_SEEDS for count in each)
        return "tasks and training seeds" if every else "tasks and, where there are more than three, seeds"
    if seeds > 1:
        return f"tasks, with the {seeds} training seeds fixed"
    return "tasks; one training seed does not show how training varies"


def goal_text(goal: tuple[int, ...]) -> str:
    """A goal as people write it: (4, 2)."""
    return "(" + ", ".join(str(int(part)) for part in goal) + ")"


def task_name(study: Study, task: TaskScore) -> str:
    """A task in a sentence or a table: a goal by its place, another by its number and its family's words."""
    words = described_task(study.shared_config, task.task_id)
    return goal_text(task.goal) if words is None else f"{task.task_id} ({words})"


def task_tick(study: Study, task: TaskScore) -> str:
    """A task on an axis, where there is room for a place or a number."""
    named = described_task(study.shared_config, task.task_id) is not None
    return str(task.task_id) if named else goal_text(task.goal)


def task_word(study: Study) -> str:
    """Goals in Darkroom, tasks elsewhere."""
    return task_noun(study.shared_config)


def last_words(study: Study) -> str:
    """``the last 10 of 50 episodes``, for comparable studies with a done cell."""
    n_episodes = study.scored[0].returns.n_episodes
    if n_episodes < LAST_EPISODES:
        return f"all {n_episodes} episodes (fewer than ten)" if n_episodes > 1 else "the only episode"
    return f"the last {last_episodes(n_episodes)} of {n_episodes} episodes"


def unclaimed(n_seeds: int, n_tasks: int) -> str:
    """Why no significance is claimed, for the sentence with the numbers; empty where it may be."""
    if n_tasks < 2:
        return "one task does not show how tasks vary: no interval is given, no significance is claimed"
    if n_seeds <= FEW_SEEDS:
        seeds = plural(n_seeds, "training seed")
        return f"intervals are over tasks alone, with {seeds}: no significance is claimed"
    return ""


def describe(model: ModelResult) -> str:
    """A model with its window, depth and latents, and its seeds where some are missing."""
    facts = model.facts
    # The label is the arm and the grid's values; some of these are named in full here.
    named = (f"window {facts.window}", f"depth {facts.depth}", f"{facts.n_latent} latents")
    name = ", ".join(part for part in model.label.split(", ") if part not in named)
    if facts.depth is None:
        # A recurrent net sees one step at a time.
        text = name if facts.window == 1 else f"{name} with window {facts.window}"
    else:
        latents = plural(facts.n_latent or 0, "latent")
        text = f"{name} (window {facts.window}, depth {facts.depth}, {latents})"
    missing = (
        f" [{len(model.done)} of {len(model.cells)} seeds]" if len(model.done) < len(model.cells) else ""
    )
    return text + missing
