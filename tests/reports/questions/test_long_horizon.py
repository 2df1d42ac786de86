"""Returns beyond the history and by compressions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cad.reports import (
    CellResult,
    Study,
    make_study,
)
from cad.reports.data import common_compressions, compression_tables, mean_by_compressions
from cad.reports.plotting import drawing_style, keeping_figures
from cad.reports.questions import (
    long_horizon,
)

Make = Callable[..., CellResult]


def study_of(cells: list[CellResult], **how: Any) -> Study:
    return make_study("s", "", "", cells, None, **how)


def long_cell(cell: Make, **changes: Any) -> CellResult:
    """120 episodes of 20 steps, compressed every 40 steps; the return is the number of compressions / 100."""
    compression_steps = np.broadcast_to(np.arange(40, 2400, 40, dtype=np.int32), (8, 2, 59))
    returns = np.minimum(np.arange(120) // 2, 59) / 100 * np.ones((8, 2, 1))
    one = cell(
        shape=(8, 2, 120),
        compression_steps=compression_steps,
        chosen=np.zeros(compression_steps.shape, dtype=bool),
        **changes,
    )
    return dataclasses.replace(one, returns=returns * np.array(one.optimal)[:, None, None])


def compressing_at(one: CellResult, steps: np.ndarray) -> CellResult:
    """The cell, with compressions of all roll-outs after these steps."""
    every = np.broadcast_to(steps, (8, 2, len(steps)))
    return dataclasses.replace(one, compression_steps=every, chosen=np.zeros(every.shape, dtype=bool))


def test_return_by_compressions_and_beyond_the_history(cell: Make) -> None:
    study = study_of([long_cell(cell)])
    points = study.cells[0].by_compressions
    assert [k for k, _, _ in points] == list(range(60))
    assert [value for _, value, _ in points] == pytest.approx([k / 100 for k in range(60)])
    assert {n for _, _, n in points} == {2 * 16}
    within = np.minimum(np.arange(40, 50) // 2, 59).mean() / 100
    assert study.cells[0].normalised_history10 == pytest.approx(within)
    text = long_horizon.sentence(study)
    assert f"{within:.2f} of the optimum over episodes 41 to 50, where source histories end" in text
    assert "0.57 over episodes 111 to 120" in text
    assert "compresses up to 59 times: its return is 0.03 after 3" in text
    assert study_of([cell(shape=(8, 8, 20))]).cells[0].normalised_history10 is None


def test_a_row_of_the_matrix_ends_with_the_roll_outs(cell: Make) -> None:
    deep, shallow = long_cell(cell), long_cell(cell, depth=1)
    study = study_of([deep, dataclasses.replace(shallow, returns=shallow.returns / 2)])
    rows = compression_tables(study)["depth_by_compressions"].rows
    ours = [row for row in rows if row[1] == 3]
    assert [row[3:5] for row in ours] == [(0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, 63)]
    # As many episodes after each number of compressions, of which 32 to 59 occur.
    means = [0, 0.01, 0.025, 0.055, 0.115, 0.235, np.mean(range(32, 60)) / 100]
    assert [row[5] for row in ours] == pytest.approx(means)
    assert [row[5] for row in rows if row[1] == 1] == pytest.approx([mean / 2 for mean in means])
    drawing = long_horizon.SECTION.figures[1](study)
    assert drawing is not None and "0.06 after 4-7" in drawing.alt
    assert long_horizon.SECTION.figures[1](study_of([deep])) is None


@pytest.mark.parametrize(("depth", "columns"), [(1, 2), (2, 3), (3, 3), (7, 4)])
def test_the_thick_line_stands_where_training_ended(depth: int, columns: int, cell: Make) -> None:
    """After as many columns of the whole matrix as training unrolled, also in a row without some of them."""
    every = long_cell(cell, depth=3)
    # Five episodes of 20 steps between two compressions of three each: 0, 3, 6, 9, ... come before episodes.
    steps = np.sort(np.concatenate([np.arange(100, 2400, 100) + k for k in (0, 1, 2)])).astype(np.int32)
    jumps = compressing_at(long_cell(cell, depth=depth, n_latent=1), steps)
    with keeping_figures() as kept, drawing_style():
        drawing = long_horizon.SECTION.figures[1](study_of([every, jumps]))
    assert drawing is not None
    ax = kept["depth-matrix"].axes[0]
    lines = {line.get_ydata()[0]: line.get_xdata()[0] for line in ax.lines}
    row = [label.get_text().replace("\n", " ") for label in ax.get_yticklabels()].index(
        f"CompressedAD, depth {depth}, 1 latents (trained to {depth})"
    )
    assert lines[row] == columns
    edges = [label.get_text() for label in ax.get_xticklabels()]
    assert int(edges[columns - 1].rpartition("-")[2]) == depth


def test_the_return_is_told_after_a_number_of_compressions_that_there_is(cell: Make) -> None:
    steps = np.sort(np.concatenate([np.arange(10, 2400, 20) + k for k in (0, 1)])).astype(np.int32)
    one = compressing_at(long_cell(cell), steps)
    counts = [count for count, *_ in study_of([one]).cells[0].by_compressions]
    assert 3 not in counts
    last = max(count for count in counts if count < 3)
    value = next(value for count, value, _ in study_of([one]).cells[0].by_compressions if count == last)
    assert f"its return is {value:.2f} after {last} and" in long_horizon.sentence(study_of([one]))


def test_fewer_than_ten_episodes_begin_with_the_first(cell: Make) -> None:
    short = cell(shape=(8, 8, 5), kind="ad", window=20)
    history = {"source.steps_per_stream": 60, "source.n_steps": 20}
    short = dataclasses.replace(short, config=short.config.with_overrides(history, "test"))
    text = long_horizon.sentence(study_of([short]))
    assert "over episodes 1 to 3, where source histories end" in text
    assert "over episodes 1 to 5." in text


def test_a_curve_ends_where_only_long_episodes_go_on(cell: Make) -> None:
    """Two roll-outs of forty have episodes four times as long, none rewarded: they alone compress on."""
    long = np.zeros((8, 5), dtype=bool)
    long[3, 1] = long[6, 4] = True
    lengths = np.where(long, 40, 10)[..., None] * np.ones((8, 5, 20), dtype=int)
    steps = np.arange(40, 841, 40, dtype=np.int32) * np.ones((8, 5, 1), dtype=np.int32)
    steps[steps >= lengths.sum(axis=2, keepdims=True)] = 0
    one = cell(shape=(8, 5, 20), compression_steps=steps, chosen=np.zeros(steps.shape, dtype=bool))
    shares = np.where(long, 0.0, 0.8)[..., None] * np.ones(20)
    optimal = np.array(one.optimal)[:, None, None]
    one = dataclasses.replace(one, returns=shares * optimal, lengths=lengths)
    study = study_of([one, dataclasses.replace(one, label="other, depth 3, 16 latents")])
    model = study.scored[0]
    assert model.cells[0].by_compressions[-1][:2] == (19, 0.0)
    assert common_compressions(model) == 4
    assert [count for count, _ in mean_by_compressions(model)] == [0, 1, 2, 3, 4]
    assert min(value for _, value in mean_by_compressions(model)) > 0.7
    assert [row[2] for row in compression_tables(study)["return_by_compressions"].rows][:20] == list(
        range(20)
    )
    assert "compresses up to 4 times" in long_horizon.sentence(study)
    curve, matrix = (draw(study) for draw in long_horizon.SECTION.figures)
    assert curve is not None and "Curves end where a tenth of the roll-outs have no more" in curve.caption
    assert matrix is not None and "0.00 after" not in matrix.alt
    even = long_horizon.SECTION.figures[0](study_of([long_cell(cell)]))
    assert even is not None and "Curves end" not in even.caption
