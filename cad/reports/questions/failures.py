"""Where does it fail?  Single goals, their place on the grid, first rewards, and roll-outs to look at."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.colors import Normalize

from cad.reports.data import (
    ChosenRollout,
    Shown,
    ShownTable,
    Study,
    chosen_rollouts,
    describe,
    first_reward_tables,
    goal_map_size,
    goal_text,
    last_episodes,
    number_cell,
    plural,
    rewarded_by_episode,
    rewards_tell,
    rollout_tables,
    task_name,
    task_tables,
    task_tick,
    task_word,
    text_cell,
)
from cad.reports.plotting import (
    GRID,
    LEGEND_WIDTH,
    MUTED,
    SMALL,
    Drawing,
    Hover,
    bare_axes,
    draw_strips,
    featured_styles,
    new_figure,
    render,
    tile,
    whole_scale,
    whole_ticks,
    wrap,
)
from cad.reports.questions.section import Section, left_out

_WEAK = 0.6  # share of the optimum below which a goal is called weak
_MOST_ROWS = 30  # of the heat table
_MOST_COLUMNS = 8  # models that a table has beside each other where tasks need words
_MOST_OPEN = 12  # goals of a table that is not folded
_MOST_MAPS = 6
_MOST_CURVES = 6
_WORST = 3


def _goals_sentence(study: Study) -> str:
    """The lowest goal of the lead, and how many are weak."""
    lead = study.lead
    if lead is None:
        return ""
    worst = min(lead.task_scores, key=lambda task: task.normalised_last10)
    weak = sum(task.normalised_last10 < _WEAK for task in lead.task_scores)
    word = task_word(study)
    lowest = f"{worst.normalised_last10:.2f}"
    alike = sum(f"{task.normalised_last10:.2f}" == lowest for task in lead.task_scores)
    if alike == len(lead.task_scores):
        where = f"the only {word}, {task_name(study, worst)}" if alike == 1 else f"each of {alike} {word}s"
        return f"{describe(lead)} reaches {lowest} on {where}."
    others = f" and {alike - 1} more" if alike > 1 else ""
    text = f"{describe(lead)} is lowest on {word} {task_name(study, worst)}{others}, with {lowest}"
    if not study.measure.unit:  # no level of raw returns means anything here
        return f"{text}."
    return (
        f"{text}; {weak or 'none'} of {plural(len(lead.task_scores), word)} "
        f"{'is' if weak <= 1 else 'are'} below {_WEAK}."
    )


def _never_sentence(study: Study) -> str:
    """The worst tasks of the lead, and how many roll-outs never got a reward, where returns tell that."""
    lead = study.lead
    if lead is None:
        return ""
    texts = []
    worst = sorted(lead.task_scores, key=lambda task: task.normalised_last10)[:_WORST]
    if len(lead.task_scores) > _WORST:
        parts = [f"{task_name(study, task)} with {task.normalised_last10:.2f}" for task in worst]
        texts.append(f"Its worst: {', '.join(parts)}.")
    parts = []
    for model in dict.fromkeys([lead, *study.references]) if rewards_tell(lead.config) else ():
        size = model.returns.normalised[..., 0].size
        never = round(size * (1 - rewarded_by_episode(model)[-1]))
        parts.append(f"{never:,} of {size:,} with {model.label}")
    if parts:
        texts.append(f"Roll-outs that never got a reward: {', '.join(parts)}.")
    return " ".join(texts)


def _draw_goals(study: Study) -> Drawing | None:
    """Heat table of models x evaluated tasks, best model first; None where nothing can be compared."""
    models = study.best_first[:_MOST_ROWS]
    if not models or not study.comparable:
        return None
    tasks = sorted(models[0].task_scores, key=lambda task: task.optimum)
    figure, hover = new_figure(0.86 + 0.28 * len(models)), Hover()
    ax = figure.subplots()
    bare_axes(ax, len(tasks), len(models))
    numbers, word, unit = len(tasks) <= 16, task_word(study), study.measure.unit
    norm = whole_scale(
        [task.normalised_last10 for model in models for task in model.task_scores], shares=bool(unit)
    )
    for row, model in enumerate(models):
        scores = {task.task_id: task.normalised_last10 for task in model.task_scores}
        for column, task in enumerate(tasks):
            value, name = scores[task.task_id], f"{model.label}, {word} {task_name(study, task)}"
            text = f"{value:.2f}" if numbers else ""
            tile(
                ax, hover, (column, row), value, text, norm, size=SMALL, name=name,
                measure=study.measure.name,
            )  # fmt: skip
    ax.set_xticks(
        np.arange(len(tasks)) + 0.5,
        [task_tick(study, task) + (f"\n{task.optimum:g}" if unit else "") for task in tasks],
        rotation=0 if numbers else 90,
        fontsize=SMALL if numbers else 4.7,
    )
    ax.set_yticks(np.arange(len(models)) + 0.5, [wrap(model.label, 36) for model in models], fontsize=SMALL)
    number = "" if word == "goal" else " (its number)"
    below = f", and below it its {unit} (return)" if unit else ""
    ax.set_xlabel(f"{study.task_kind} {word}{number}{below}")
    # One that is stated for all tasks says nothing of how hard they are.
    easiest = f", easiest {word} to the right" if len({task.optimum for task in tasks}) > 1 else ""
    worst = min(models[0].task_scores, key=lambda task: task.normalised_last10)
    return Drawing(
        "goals",
        f"Return on each {study.task_kind} {word}",
        (
            f"Normalised return over the last episodes, best model on top{easiest}; dark is 0, bright is the "
            f"{unit}."
            if unit
            else "Return over the last episodes, best model on top; the brighter, the higher."
        )
        + left_out(len(study.scored) - len(models), f"The best {_MOST_ROWS} models"),
        f"Heat table of return by model and {word}. The best model's lowest is "
        f"{worst.normalised_last10:.2f} on {word} {task_name(study, worst)}.",
        ("per_task",),
        *render(figure, "goals", hover),
    )


def _draw_maps(study: Study) -> Drawing | None:
    """Evaluated goals on the grid, one map a model; None for families whose tasks are no single goals."""
    models, config = study.best_first[:_MOST_MAPS], study.shared_config
    size = None if config is None else goal_map_size(config)
    if size is None or not models or not study.comparable:
        return None
    if any(len(task.goal) != 2 for task in models[0].task_scores):
        return None
    columns = min(3, len(models))
    rows = math.ceil(len(models) / columns)
    figure, hover = new_figure(2.3 * rows, 2.33 * columns), Hover()
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax, model in zip(axes.flat, models, strict=False):
        bare_axes(ax, size, size)
        ax.set_aspect("equal")
        for line in range(size + 1):
            ax.axhline(line, color=GRID, linewidth=0.55, zorder=0)
            ax.axvline(line, color=GRID, linewidth=0.55, zorder=0)
        for task in model.task_scores:
            row, column = task.goal
            text = f"{task.normalised_last10:.2f}" if size <= 11 else ""
            name = f"{model.label}, {goal_text(task.goal)}"
            at = (column, row)
            tile(
                ax, hover, at, task.normalised_last10, text, Normalize(0, 1), size=5.1, name=name,
                measure=study.measure.name,
            )  # fmt: skip
        ax.plot(size // 2 + 0.5, size // 2 + 0.5, marker="x", color=MUTED, markersize=5.4)
        ticks = np.arange(0, size, max(1, size // 9))
        ax.set_xticks(ticks + 0.5, [str(tick) for tick in ticks], fontsize=5.8)
        ax.set_yticks(ticks + 0.5, [str(tick) for tick in ticks], fontsize=5.8)
        ax.set_title(wrap(model.label, 32), fontsize=SMALL)
    for ax in axes.flat[len(models) :]:
        ax.set_visible(False)
    for ax in axes[-1]:
        ax.set_xlabel("column", fontsize=6.2)
    for ax in axes[:, 0]:
        ax.set_ylabel("row", fontsize=6.2)
    values = [f"{task.normalised_last10:.2f} at {goal_text(task.goal)}" for task in models[0].task_scores]
    return Drawing(
        "maps",
        f"Where the {study.task_kind} goals are",
        "The same numbers on the grid; the cross marks the start."
        + (
            f" The best {_MOST_MAPS} of {len(study.scored)} models." if len(study.scored) > _MOST_MAPS else ""
        ),
        f"Maps of the {size} by {size} grid with the normalised return at each {study.task_kind} goal. "
        f"{models[0].label}: {', '.join(values)}.",
        ("per_task",),
        *render(figure, "maps", hover),
    )


def _draw_first_rewards(study: Study) -> Drawing | None:
    """Share of roll-outs that had a reward, by episode; None where nothing can be compared, or told."""
    models = study.featured(_MOST_CURVES)
    if not models or not study.comparable or not rewards_tell(models[0].config):
        return None
    styles = featured_styles(study, models)
    figure, hover = new_figure(2.8), Hover()
    ax = figure.subplots()
    x_name, y_name = "episode in context", "share of roll-outs\nwith a reward so far"
    shares = [rewarded_by_episode(model) for model in models]
    last = [int(np.argmax(share == share[-1])) + 1 for share in shares]
    end = max(2, min(max(map(len, shares)), round(1.2 * max(last))))  # nothing changes after it
    ax.set_xlim(1, end)
    whole_ticks(ax)
    ax.set_ylim(0, 1.02)
    for model, share in zip(models, shares, strict=True):
        episodes, style = np.arange(1, len(share) + 1), styles[model.label]
        name = wrap(model.label, LEGEND_WIDTH)
        ax.step(episodes, share, where="post", color=style.colour, linestyle=style.dash, label=name)
        hover.points(ax, episodes, share, name=model.label, x_name=x_name, y_name=y_name)
    ax.set_xlabel(x_name)
    ax.set_ylabel(y_name)
    figure.legend(loc="outside lower center", ncols=min(3, len(models)))
    return Drawing(
        "found",
        "How soon the goal is found" if task_word(study) == "goal" else "How soon the first reward comes",
        "Share of all roll-outs, tasks and seeds that got a reward in this episode or earlier. Roll-outs "
        "that never got one keep the end of a curve below 1."
        + left_out(len(study.scored) - len(models), "References and best models"),
        "Step chart of the share of roll-outs with a reward so far, by episode. " + _never_sentence(study),
        ("found", "never_found"),
        *render(figure, "found", hover),
    )


def _draw_rollouts(study: Study) -> Drawing | None:
    """Strips of the chosen roll-outs; None without any."""
    chosen = chosen_rollouts(study)
    if not chosen:
        return None
    hover = Hover()
    figure = draw_strips([entry.watched for entry in chosen], hover)
    return Drawing(
        "rollouts",
        "What a roll-out looks like",
        f"{chosen[0].model.label}, seed {chosen[0].seed}, the best cell: paths on the grid in some episodes "
        "(bars in full colour), and the return of every episode. Of each task's roll-outs the median one by "
        "its last episodes. Each path is drawn drifting to the lower right, so that moves to and fro, and "
        "waiting, can be told apart. The command cad watch-rollout draws any other roll-out.",
        "Maps of paths by episode above bars of the return. " + " ".join(map(_first_reward, chosen)),
        ("rollouts",),
        *render(figure, "rollouts", hover),
    )


def _first_reward(chosen: ChosenRollout) -> str:
    returns = chosen.watched.returns
    rewarded = np.flatnonzero(returns)
    last = last_episodes(len(returns))
    text = f"In the {chosen.which} task the mean return over the last {last} is {returns[-last:].mean():.1f}"
    if len(rewarded):
        return text + f"; the first reward comes in episode {rewarded[0] + 1}."
    return text + "; it is never rewarded."


def _table(study: Study) -> ShownTable | None:
    """Evaluated tasks and models, a row each of what there is more; None where nothing can be compared."""
    if not study.scored or not study.comparable:
        return None
    tasks = study.scored[0].task_scores
    by_model = [{task.task_id: task.normalised_last10 for task in m.task_scores} for m in study.scored]
    whole, word = study.measure.unit, task_word(study)
    caption = f"Normalised return on each {study.task_kind} {word}; beside the {word} its {whole}, a return"
    if not whole:
        caption = f"Return on each {study.task_kind} {word}"
    labels = [model.label for model in study.scored]
    described = word != "goal"  # in words that need a line each
    if len(tasks) > len(labels) or (described and len(labels) <= _MOST_COLUMNS):
        rows = [
            (
                Shown(_unbroken(task_name(study, task)), task.task_id),
                *([number_cell(task.optimum, "g")] if whole else []),
                *(number_cell(scores[task.task_id]) for scores in by_model),
            )
            for task in tasks
        ]
        return ShownTable(
            "goals-table",
            caption,
            (word, *([whole] if whole else []), *labels),
            rows,
            len(rows) > _MOST_OPEN,
        )
    kind = "task " * described
    goals = (
        kind + _unbroken(task_tick(study, task)) + (f" {task.optimum:g}" if whole else "") for task in tasks
    )
    rows = [
        (text_cell(label), *(number_cell(scores[task.task_id]) for task in tasks))
        for label, scores in zip(labels, by_model, strict=True)
    ]
    return ShownTable("goals-table", caption, ("model", *goals), rows)


def _unbroken(name: str) -> str:
    """A name that stays on one line where it is a place."""
    return name.replace(" ", "\u00a0") if name.startswith("(") else name


SECTION = Section(
    "where-it-fails",
    "Where does it fail?",
    sentences=(_goals_sentence, _never_sentence),
    figures=(_draw_goals, _draw_maps, _draw_first_rewards, _draw_rollouts),
    shown_tables=(_table,),
    data_tables=(task_tables, first_reward_tables, rollout_tables),
)
