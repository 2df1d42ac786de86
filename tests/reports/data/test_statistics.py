"""Known answers: intervals cover planted truths at about their rate; nothing is found where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cad.reports.data.statistics import (
    draws,
    holm,
    iqm,
    iqm_interval,
    mean_interval,
    p_values,
    pareto_front,
    resampled_means,
    variance_of_mean,
)

SWEEPS = 600  # one simulated sweep an element of the last axis


def sweeps(n_seeds: int, of_tasks: float, of_seeds: float, noise: float, *, rng_seed: int = 0) -> np.ndarray:
    """(seeds, 8 tasks, SWEEPS) scores of mean 0 over the populations of tasks and of seeds."""
    rng = np.random.default_rng(rng_seed)
    tasks, seeds = rng.normal(0, of_tasks, (1, 8, SWEEPS)), rng.normal(0, of_seeds, (n_seeds, 1, SWEEPS))
    return tasks + seeds + rng.normal(0, noise, (n_seeds, 8, SWEEPS))


@pytest.mark.parametrize(
    ("n_seeds", "of_tasks", "of_seeds", "noise"),
    [
        (1, 0.1, 0.0, 0.02),
        (3, 0.1, 0.0, 0.05),
        (3, 0.01, 0.0, 0.1),
        (4, 0.02, 0.1, 0.03),
        (5, 0.1, 0.02, 0.03),
        (5, 0.1, 0.1, 0.1),
        (10, 0.05, 0.05, 0.02),
    ],
)
def test_intervals_cover_the_planted_mean_at_about_95_percent(
    n_seeds: int, of_tasks: float, of_seeds: float, noise: float
) -> None:
    low, high = mean_interval(0.7 + sweeps(n_seeds, of_tasks, of_seeds, noise), n_seeds > 3)
    assert 0.92 <= np.mean((low <= 0.7) & (high >= 0.7)) <= 0.98


def test_a_planted_difference_is_covered_and_found() -> None:
    # Tasks are the same for both models, so that their scatter leaves the difference.
    tasks = sweeps(1, 0.15, 0, 0)
    first = tasks + sweeps(5, 0.02, 0.03, 0.03, rng_seed=1) + 0.12
    second = tasks + sweeps(5, 0.02, 0.03, 0.03, rng_seed=2)
    low, high = mean_interval(first - second, True)
    assert 0.92 <= np.mean((low <= 0.12) & (high >= 0.12)) <= 0.98
    assert np.mean(p_values(first - second) < 0.05) > 0.9


@pytest.mark.parametrize("n_seeds", [4, 5, 10])
def test_no_difference_is_not_called_one(n_seeds: int) -> None:
    actual = p_values(sweeps(n_seeds, 0.03, 0.03, 0.03) - sweeps(n_seeds, 0.03, 0.03, 0.03, rng_seed=9))
    assert np.mean(actual < 0.05) < 0.07
    # Twelve models against one reference: how often is any of them called different?
    families = actual.reshape(-1, 12)
    assert np.mean([min(holm(list(family))) < 0.05 for family in families]) < 0.1


def test_one_failing_task_in_eight_is_still_covered() -> None:
    rng = np.random.default_rng(3)
    scores = np.where(rng.random((1, 8, SWEEPS)) < 0.125, 0.1, 0.95) + rng.normal(0, 0.02, (3, 8, SWEEPS))
    low, high = mean_interval(scores, False)
    truth = 0.875 * 0.95 + 0.125 * 0.1
    # A third of such sweeps has no failing task at all, and cannot know: the best that any interval can do.
    assert np.mean((low <= truth) & (high >= truth)) > 0.6


def test_iqm_interval_covers_at_about_95_percent() -> None:
    scores = 0.7 + sweeps(3, 0.1, 0, 0.03)[..., :200]
    hits = [low <= 0.7 <= high for low, high in (iqm_interval(scores[..., i], False) for i in range(200))]
    assert 0.91 <= np.mean(hits) <= 0.99
    assert iqm(np.array([[0.0, 1, 2, 3], [4, 5, 6, 100]])) == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_one_factor_is_students_interval_for_a_normal_mean() -> None:
    values = sweeps(1, 0.1, 0, 0)[:, :, :50]
    low, high = mean_interval(values, False)
    half = stats.t.ppf(0.975, 7) * values[0].std(axis=0, ddof=1) / np.sqrt(8)
    assert (high - low) / 2 == pytest.approx(half, rel=0.12)
    variance, freedom = variance_of_mean(values, False)
    assert freedom.tolist() == [7.0] * 50
    assert np.sqrt(variance) * stats.t.ppf(0.975, 7) == pytest.approx(half)


def test_draws_agree_with_scipys_bootstrap_of_seeds_and_tasks() -> None:
    values = sweeps(6, 0.1, 0.1, 0.05)[:, :, 0]

    def mean(seed: np.ndarray, task: np.ndarray, axis: int) -> np.ndarray:
        assert axis == -1
        return values[seed[..., :, None], task[..., None, :]].mean(axis=(-1, -2))

    theirs = stats.bootstrap(
        (np.arange(6), np.arange(8)), mean, n_resamples=4000, method="percentile",
        rng=np.random.default_rng(0),
    ).bootstrap_distribution  # fmt: skip
    ours = resampled_means(values[..., None], True)[:, 0]
    assert ours.std() == pytest.approx(theirs.std(), rel=0.06)
    assert np.quantile(ours, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(theirs, [0.1, 0.5, 0.9]), abs=0.01)


def test_draws_are_joint_repeated_and_of_seeds_only_where_asked() -> None:
    values = np.broadcast_to(np.arange(5.0)[:, None, None], (5, 4, 2))
    low, high = mean_interval(values, False)
    assert low == pytest.approx([2, 2]) and high == pytest.approx([2, 2])
    low, high = mean_interval(values, True)
    assert (low < 1.2).all() and (high > 2.8).all()
    again = mean_interval(values, True)
    assert (again[0] == low).all() and (again[1] == high).all()
    # Two models of one shape get the same draws: a constant difference has no scatter.
    a = sweeps(5, 0.1, 0.1, 0.1)[..., :3]
    assert resampled_means(a + 0.25, True) - resampled_means(a, True) == pytest.approx(0.25)
    seed, task = draws(5, 8, True)
    assert seed.shape == (2000, 5) and task.shape == (2000, 8)
    assert np.isnan(mean_interval(values[:, :1], False)).all()


def test_holm_and_pareto_front() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert pareto_front([1, 2, 3, 4, 2], [0.5, 0.4, 0.9, 0.9, 0.6]) == [0, 4, 2]
    assert pareto_front([1, 1], [0.5, 0.5]) == [0, 1]
    rng = np.random.default_rng(0)
    costs, gains = rng.integers(0, 9, 40).tolist(), rng.integers(0, 9, 40).tolist()
    front = set(pareto_front(costs, gains))
    for i in range(40):
        beaten = any(
            costs[j] <= costs[i] and gains[j] >= gains[i] and (costs[j] < costs[i] or gains[j] > gains[i])
            for j in range(40)
        )
        assert (i in front) == (not beaten)
