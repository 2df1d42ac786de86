"""Sentences that are computed from the data: the headline, one for each figure, the notices."""

from __future__ import annotations

import math
from collections.abc import Callable

from cad.reports import (
    cost_figures,
    differences,
    finding,
    lasting,
    marginals,
    probe_figure,
    profile_figure,
    region_figure,
    side_by_side,
    training_figures,
)
from cad.reports.aggregate import LAST_EPISODES, Group, Study, last_episodes
from cad.reports.figures import goal_text

_WEAK = 0.6  # share of the optimum below which a goal is called weak


def plural(count: int, word: str) -> str:
    """``1 goal``, ``2 goals``."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def task_word(study: Study) -> str:
    """Goals in Darkroom, tasks elsewhere."""
    config = study.reference_config
    return "goal" if config is not None and config.env.name == "darkroom" else "task"


def last_words(study: Study) -> str:
    """``the last 10 of 50 episodes``, for comparable studies with a done cell."""
    n_episodes = study.scored[0].normalised.shape[3]
    last = last_episodes(n_episodes)
    if n_episodes < LAST_EPISODES:
        return f"all {n_episodes} episodes (fewer than ten)" if n_episodes > 1 else "the only episode"
    return f"the last {last} of {n_episodes} episodes"


def describe(group: Group) -> str:
    """A group with its window, depth and latents, and its seeds where some are missing."""
    # The label is the arm and the grid's values, of which some are said in full here.
    told = (f"window {group.window}", f"depth {group.depth}", f"{group.n_latent} latents")
    name = ", ".join(part for part in group.label.split(", ") if part not in told)
    if group.depth is None:
        text = f"{name} with window {group.window}"
    else:
        latents = plural(group.n_latent or 0, "latent")
        text = f"{name} (window {group.window}, depth {group.depth}, {latents})"
    return text + (
        f" [{len(group.done)} of {len(group.cells)} seeds]" if len(group.done) < len(group.cells) else ""
    )


def headline(study: Study) -> str:
    """The result in one sentence, or why there is none."""
    if not study.cells:
        return "This experiment has no cells."
    if not study.scored:
        failed = sum(cell.status != "missing" for cell in study.cells)
        return f"No result yet: of {plural(len(study.cells), 'cell')}, none is done, {failed} failed."
    if not study.comparable:
        return (
            f"{plural(sum(cell.done for cell in study.cells), 'cell')} done, but on {study.n_rosters} "
            "different sets of tasks or episodes: their means are not compared."
        )
    tasks = plural(len(study.scored[0].task_scores), f"{study.task_kind} {task_word(study)}")
    best, reference = study.best(ad=False), study.best(ad=True)
    lead = best or reference
    if lead is None:
        return "No result yet."
    # describe() already names the arm; only a choice among several deserves "best".
    choice = "Best " if sum(g.is_ad == lead.is_ad for g in study.scored) > 1 else ""
    text = f"{choice}{describe(lead)} reaches {lead.score:.2f} of the optimum "
    text += f"over {last_words(study)} on {tasks}"
    if best is not None and reference is not None:
        text += f"; {describe(reference)} reaches {reference.score:.2f}"
    return text + "."


def qualification(study: Study) -> str:
    """What the headline does not say: choice, seeds, tasks."""
    if not study.scored or not study.comparable:
        return ""
    best = study.best(ad=False) or study.best(ad=True)
    if best is None:
        return ""
    low, high = best.score_interval
    over = "seeds and tasks" if best.many_seeds else "tasks"
    parts = [f"95% interval {low:.2f} to {high:.2f} over {over}"] if math.isfinite(low) else []
    if not best.many_seeds:
        parts.append(f"{plural(len(best.done), 'training seed')}: no significance is claimed")
    if len(study.scored) > 2:
        parts.append(f"the best was chosen on these same {study.task_kind} tasks, which flatters it a little")
    return "; ".join(parts) + "."


def notices(study: Study) -> list[str]:
    """What a reader must know before the first figure: missing and failed cells, unequal rosters."""
    undone: dict[tuple[str, str], list[int]] = {}
    for cell in study.cells:
        if not cell.done:
            undone.setdefault((cell.result.label, " ".join(cell.status.split())), []).append(
                cell.result.config.seed
            )
    lines = [
        f"{label}, {'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, sorted(seeds)))}: {status}"
        for (label, status), seeds in undone.items()
    ]
    if lines:
        count = sum(map(len, undone.values()))
        verb = "is" if count == 1 else "are"
        lines.insert(
            0, f"{count} of {plural(len(study.cells), 'cell')} {verb} missing or failed and in no mean:"
        )
    if study.n_rosters > 1:
        lines.append(
            f"The done cells were evaluated on {study.n_rosters} different sets of tasks or numbers of "
            "episodes; figures that compare them are left out. --allow-unequal compares them on what they "
            "share."
        )
    if study.trimmed:
        lines.append(study.trimmed)
    fewest = min((len(group.curve) for group in study.scored), default=LAST_EPISODES)
    if fewest < LAST_EPISODES:
        lines.append(f"Only {plural(fewest, 'episode')} a roll-out: “last 10” is the mean over all of them.")
    return lines


def learning_sentence(study: Study) -> str:
    """Does it learn in context?"""
    lead = study.best(ad=False) or study.best(ad=True)
    if lead is None or lead.score is None:
        return ""
    text = (
        f"{describe(lead)} goes from {lead.curve[0]:.2f} of the optimum in its first episode to "
        f"{lead.score:.2f} over the last {last_episodes(len(lead.curve))}"
    )
    if study.source is not None:
        curve = study.source.mean(axis=0)[: len(lead.curve)]
        last = last_episodes(len(curve))
        text += (
            f"; source PPO goes from {curve[0]:.2f} to {curve[-last:].mean():.2f} in {len(curve)} episodes"
        )
    return text + "."


def goals_sentence(study: Study) -> str:
    """Where does it fail?"""
    lead = study.best(ad=False) or study.best(ad=True)
    if lead is None:
        return ""
    worst = min(lead.task_scores, key=lambda task: task.normalised_last10)
    weak = sum(task.normalised_last10 < _WEAK for task in lead.task_scores)
    word = task_word(study)
    return (
        f"{describe(lead)} is lowest on {word} {goal_text(worst.goal)}, with {worst.normalised_last10:.2f}; "
        f"{weak or 'none'} of {plural(len(lead.task_scores), word)} "
        f"{'is' if weak <= 1 else 'are'} below {_WEAK}."
    )


def cost_sentence(study: Study) -> str:
    """What does compression cost or save?"""
    best, reference = study.best(ad=False), study.best(ad=True)
    if best is None or reference is None:
        return ""
    ours, theirs = (group.mean(lambda result: result.state_bytes) for group in (best, reference))
    text = ""
    if ours and theirs:
        text = (
            f"{describe(best)} keeps {ours / 1024:,.1f} KiB for a roll-out, {ours / theirs:.2f} times what "
            f"{describe(reference)} keeps ({theirs / 1024:,.1f} KiB)"
        )
        ours, theirs = (group.mean(lambda result: result.core_minutes) for group in (best, reference))
        if ours and theirs:
            text += f", after {ours / theirs:.2f} times the core-minutes of training ({ours:,.1f})"
        text += "."
    return text


def sentences(study: Study) -> dict[str, str]:
    """The answer to each section's question, by its anchor; empty where nothing can be compared."""
    answers: dict[str, tuple[Callable[[Study], str], ...]] = {
        "side-by-side": (side_by_side.sentence,),
        "learning-in-context": (learning_sentence, profile_figure.sentence),
        "against-references": (differences.sentence,),
        "depth-and-latents": (marginals.sentence,),
        "cost-of-compression": (cost_sentence, cost_figures.front_sentence),
        "where-it-fails": (goals_sentence, finding.sentence),
        "does-it-last": (lasting.sentence,),
        "when-it-compresses": (region_figure.regions_sentence,),
        "what-latents-hold": (probe_figure.probe_sentence,),
        "how-training-went": (training_figures.sentence,),
    }
    if not study.comparable:
        return dict.fromkeys(answers, "")
    return {
        anchor: " ".join(text for part in parts if (text := part(study))) for anchor, parts in answers.items()
    }
