"""A run in which no cell counts has failed, also where every stage ended."""

from __future__ import annotations

import dataclasses

import numpy as np

from cad.evaluation.results import load_results, save_results


def spoil(folder):
    """Returns that are no numbers, in a stage that an earlier version finished (without checksums)."""
    result = load_results(folder / "returns.h5")
    save_results(
        folder / "returns.h5", dataclasses.replace(result, returns=np.full_like(result.returns, np.nan))
    )
    (folder / "DONE").write_text("{}")


def test_no_cell_counts(cad, small, copy):
    first, *others = sorted((copy / "stages").glob("evaluate-*"))
    for folder in others:
        spoil(folder)
    done = cad("run", small, "--root", copy, "--inline", "--no-figures")
    assert done.returncode == 0, done.stderr  # one counts, and the report names the others
    spoil(first)
    done = cad("run", small, "--root", copy, "--inline", "--no-figures")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no cell has a result that counts (report: ")
    assert "; the first one: failed: 36 returns are NaN or infinite; the first: task " in done.stderr
    assert done.stderr.count("\n") == 1
