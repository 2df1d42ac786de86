"""The result in a sentence, what qualifies it, and what a reader must know first."""

from __future__ import annotations

import math

from cad.reports.data import (
    LAST_EPISODES,
    RESAMPLES,
    Difference,
    Study,
    corner,
    describe,
    divided_by,
    equal_state,
    interval_phrase,
    last_episodes,
    last_words,
    plural,
    stated_optimum,
    task_word,
    unclaimed,
)
from cad.reports.plotting import not_drawn

# Of the source's return: below it a model is said to stay behind.
_PART_OF_SOURCE = 0.7


def depth_and_latents(study: Study) -> str:
    """What more depth and more latents change, and how models of equal state compare; empty without a grid.

    It compares the deepest and widest model, whatever its return: nothing is chosen by its result.
    """
    at = corner(study)
    if at is None:
        return ""
    facts, parts = at.model.facts, []
    if at.from_shallow is not None:
        parts.append(
            f"with {plural(facts.n_latent or 0, 'latent')}, depth {facts.depth} instead of "
            f"{at.from_shallow.reference.facts.depth} changes the return by {_change(at.from_shallow)}"
        )
    if at.from_narrow is not None:
        parts.append(
            f"at depth {facts.depth}, {plural(facts.n_latent or 0, 'latent')} instead of "
            f"{at.from_narrow.reference.facts.n_latent} {'by' if parts else 'changes the return by'} "
            f"{_change(at.from_narrow)}"
        )
    text = "; ".join(parts)
    shares = f", in shares{study.measure.of}" if study.measure.unit else ""
    sentences = [f"{text[0].upper()}{text[1:]}{shares}."] if text else []
    alike = equal_state(study, at.model)
    if alike is not None:
        other = alike.others[0]
        paired = alike.differences.get(other.label)
        sentences.append(
            f"With as much state ({alike.lead_bytes / 1024:,.1f} KiB a roll-out), {describe(at.model)} "
            f"returns {at.model.score:.2f}{study.measure.of} and {other.label} {other.score:.2f}"
            + (f", a difference of {-paired.mean:+.3f}{_interval(paired, -1)}." if paired else ".")
        )
    return " ".join(sentences)


def _change(difference: Difference) -> str:
    return f"{difference.mean:+.3f}{_interval(difference, 1)}"


def _interval(difference: Difference, sign: int) -> str:
    low, high = sorted((sign * difference.low, sign * difference.high))
    return interval_phrase(low, high, len(difference.seeds))


def headline(study: Study) -> str:
    """The result in one sentence, or why there is none."""
    if not study.cells:
        return "This experiment has no cells."
    if not study.scored:
        if any(model.done for model in study.models):
            return (
                "No model is evaluated as it was trained: all that are done have evaluation.env, "
                "knock_out or demonstrated_episodes, and none is there without, to compare with."
            )
        failed = sum(cell.status.startswith("failed") for cell in study.cells)
        return f"No result yet: of {plural(len(study.cells), 'cell')}, none is done, {failed} failed."
    if not study.comparable:
        return (
            f"{plural(sum(cell.done for cell in study.cells), 'cell')} done, but on {study.n_evaluations} "
            "different sets of tasks or episodes: their means are not compared."
        )
    tasks = plural(len(study.scored[0].task_scores), f"{study.task_kind} {task_word(study)}")
    best, reference, lead = study.best(ad=False), study.best(ad=True), study.lead
    if lead is None:
        return "No result yet."
    # describe() names the arm; "best" is only for a choice among several.
    choice = "Best " if sum(m.facts.is_ad == lead.facts.is_ad for m in study.scored) > 1 else ""
    text = f"{choice}{describe(lead)} reaches {lead.score:.2f}{study.measure.of}"
    text += f" over {last_words(study)} on {tasks}"
    if best is not None and reference is not None:
        text += f"; {describe(reference)} reaches {reference.score:.2f}"
    return text + "."


def qualification(study: Study) -> str:
    """Limits of the headline: interval, number of seeds, how the best was chosen."""
    if not study.scored or not study.comparable:
        return ""
    lead = study.lead
    if lead is None:
        return ""
    low, high = lead.returns.score_interval
    over = "seeds and tasks" if lead.returns.many_seeds else "tasks"
    parts = [f"95% interval {low:.2f} to {high:.2f} over {over}"] if math.isfinite(low) else []
    if len(lead.task_scores) < 2:
        parts.append(unclaimed(len(lead.done), 1))
    elif not lead.returns.many_seeds:
        parts.append(f"{plural(len(lead.done), 'training seed')}: no significance is claimed")
    alike = [m for m in study.scored if m.facts.is_ad == lead.facts.is_ad and m.score == lead.score]
    if len(alike) > 1:
        parts.append(f"{plural(len(alike) - 1, 'other')} of its kind reached the very same")
    if len(study.scored) > 2:
        parts.append(f"the best was chosen on these same {study.task_kind} tasks, which flatters it a little")
    text = "; ".join(parts)
    text = f"{text[0].upper()}{text[1:]}." if text else ""
    return " ".join(filter(None, (text, _far_below_source(study))))


def _far_below_source(study: Study) -> str:
    """What a reader must know where the model does not go on as its source does; empty where it does."""
    lead = study.lead
    if lead is None or lead.score is None or not study.measure.unit:
        return ""
    curve = study.source_curve(lead.returns.n_episodes)
    if curve is None:
        return ""
    end = float(curve[-last_episodes(len(curve)) :].mean())
    if end <= 0 or lead.score >= _PART_OF_SOURCE * end:
        return ""
    return (
        f"The source agents end at {end:.2f}, far above it: what they learn was not learned in context "
        "(compare the curves below; more tasks, updates or memory may help)."
    )


def notices(study: Study) -> list[str]:
    """What a reader must know before the first figure: missing and failed cells, unequal evaluations."""
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
            0,
            f"{count} of {plural(len(study.cells), 'cell')} {verb} missing, failed or pruned and in no mean:",
        )
    if study.n_evaluations > 1:
        lines.append(
            f"The done cells were evaluated on {study.n_evaluations} different sets of tasks or numbers of "
            "episodes; figures that compare them are left out. --allow-unequal compares them on what they "
            "share."
        )
    if study.trimmed:
        lines.append(study.trimmed)
    stated = dict.fromkeys(stated_optimum(cell.result.config) for cell in study.cells)
    lines.extend(words for words in stated if words is not None)
    fewest = min((model.returns.n_episodes for model in study.scored), default=LAST_EPISODES)
    if fewest < LAST_EPISODES:
        lines.append(f"Only {plural(fewest, 'episode')} a roll-out: “last 10” is the mean over all of them.")
    missing = not_drawn(" ".join(cell.result.label for cell in study.cells))
    if missing:
        lines.append(
            f"No font on this machine has {missing}: figures show boxes there. Install one that has, such as "
            "Noto Sans CJK, and make the report again."
        )
    return lines


def method(study: Study) -> str:
    """How the numbers were made, in words."""
    stated = dict.fromkeys(filter(None, (divided_by(cell.result.config) for cell in study.cells)))
    whole = " or ".join(stated) or study.measure.whole
    divided = f"; it is divided by {whole}" if study.measure.unit else ", given as it is"
    demonstrated = "; demonstrated ones do not count" if study.demonstrated else ""
    return (
        f"A return is the sum of rewards of one episode{divided}. Means are "
        "taken over roll-outs first, then tasks, then training seeds. “Last episodes” means the last ten of "
        f"a roll-out, or all where there are fewer{demonstrated}. Intervals are percentiles of "
        f"{RESAMPLES:,} joint bootstrap resamples of the {study.task_kind} tasks and, where there are more "
        "than three, of the training seeds; all models get the same draws. Such percentiles of few tasks "
        "are too narrow, so they are moved away from the estimate by the factor of the t distribution. The "
        "interquartile mean (IQM) leaves out the lowest and the highest quarter of all pairs of seed and "
        "task. "
        "Cells that are missing or failed enter no mean; one return that is NaN or infinite makes its cell "
        "a failed one."
    )
