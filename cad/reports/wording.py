"""Sentences that are computed from the data: the headline, one for each figure, the notices."""

from __future__ import annotations

from cad.reports.aggregate import FEW_SEEDS, LAST_EPISODES, Group, Panel, Study, grid_panels, last_episodes
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
    if group.depth is None:
        text = f"{group.arm} with window {group.window}"
    else:
        latents = plural(group.n_latent or 0, "latent")
        text = f"{group.arm} (window {group.window}, depth {group.depth}, {latents})"
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
    tasks = plural(len(study.scored[0].task_scores), f"held-out {task_word(study)}")
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
    parts = [f"95% interval {low:.2f} to {high:.2f} over tasks and roll-outs"]
    seeds = max(len(group.done) for group in study.scored)
    if seeds <= FEW_SEEDS:
        parts.append(f"{plural(seeds, 'training seed')}: no significance is claimed")
    else:
        parts[0] += ", and seeds"
    if len(study.scored) > 2:
        parts.append("the best was chosen on these same held-out tasks, which flatters it a little")
    return "; ".join(parts) + "."


def notices(study: Study) -> list[str]:
    """What a reader must know before the first figure: missing and failed cells, unequal rosters."""
    lines = [
        f"{cell.result.label}, seed {cell.result.config.seed}: {' '.join(cell.status.split())}"
        for cell in study.cells
        if not cell.done
    ]
    if study.n_rosters > 1:
        lines.append(
            f"The done cells were evaluated on {study.n_rosters} different sets of tasks or numbers of "
            "episodes; figures that compare them are left out."
        )
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
        text += f"; source PPO goes from {curve[0]:.2f} to {curve[-last:].mean():.2f} in as many episodes"
    return text + "."


def _marginal(panel: Panel, axis: int) -> str:
    """Means along one axis of a complete grid, as words."""
    values = panel.depths if axis == 0 else panel.latents
    parts = []
    for value in values:
        scores = [g.score for spot, g in panel.spots.items() if spot[axis] == value and g.score is not None]
        where = f"at depth {value}" if axis == 0 else f"with {plural(value, 'latent')}"
        parts.append(f"{sum(scores) / len(scores):.2f} {where}")
    return ", ".join(parts)


def grid_sentence(study: Study) -> str:
    """How does the final reward depend on depth and latents?"""
    texts = []
    panels = grid_panels(study)
    for panel in panels:
        name = f"{panel.title}: " if len(panels) > 1 else ""
        complete = len(panel.spots) == len(panel.depths) * len(panel.latents)
        if not complete or any(group.score is None for group in panel.spots.values()):
            texts.append(f"{name}The grid has gaps, so no means along its axes are given.")
            continue
        if len(panel.depths) > 1:
            texts.append(f"{name}Mean over latents: {_marginal(panel, 0)}.")
        if len(panel.latents) > 1:
            texts.append(f"{name}Mean over depths: {_marginal(panel, 1)}.")
    return " ".join(texts)


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
        ours, theirs = (group.mean(lambda result: result.train_seconds) for group in (best, reference))
        if ours and theirs:
            text += f", after {ours / theirs:.2f} times the training time"
        text += "."
    return text


def sentences(study: Study) -> dict[str, str]:
    """The answer to each section's question, by its anchor; empty where nothing can be compared."""
    answers = {
        "learning-in-context": learning_sentence,
        "depth-and-latents": grid_sentence,
        "where-it-fails": goals_sentence,
        "cost-of-compression": cost_sentence,
    }
    return {anchor: answer(study) if study.comparable else "" for anchor, answer in answers.items()}
