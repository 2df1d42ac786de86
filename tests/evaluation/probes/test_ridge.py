"""Ridge regression against the normal equations and planted maps."""

from __future__ import annotations

import numpy as np
import pytest

from cad.evaluation.probes.ridge import PENALTIES, fit_ridge


def samples(n_tasks, each, width, seed=0):
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(n_tasks), each)
    return rng, task, rng.normal(size=(n_tasks * each, width))


@pytest.mark.parametrize("width", [3, 200])
def test_ridge_solves_the_normal_equations(width):
    rng, task, x = samples(12, 5, width)
    y = x[:, :2] @ np.array([[1.0, -2.0], [0.5, 3.0]]) + rng.normal(size=(60, 2)) + 7
    fitted = fit_ridge(x, y, task)
    centred = x - x.mean(axis=0)
    penalty = fitted.penalty * (centred**2).sum() / len(x)
    expected = np.linalg.solve(
        centred.T @ centred + penalty * np.eye(width), centred.T @ (y - y.mean(axis=0))
    )
    np.testing.assert_allclose(fitted.weights, expected, atol=1e-8)
    np.testing.assert_allclose(fitted(x).mean(axis=0), y.mean(axis=0))
    assert fitted.penalty in PENALTIES


def test_ridge_finds_a_planted_map_and_nothing_where_there_is_nothing():
    rng, task, x = samples(40, 5, 30)
    y = x @ rng.normal(size=(30, 2))
    assert np.abs(fit_ridge(x, y, task)(x) - y).max() < 0.01
    # Inputs that only identify a task do not help on left-out tasks.
    names = rng.normal(size=(40, 300))[task]
    goals = rng.normal(size=(40, 2))[task]
    assert fit_ridge(names, goals, task).penalty == PENALTIES[-1]
    same = fit_ridge(np.ones((200, 4)), goals, task)
    np.testing.assert_allclose(same(np.ones((1, 4)))[0], goals.mean(axis=0))
