"""Colours of heat maps: alike values look alike, whatever the range of all."""

from __future__ import annotations

import numpy as np
import pytest

from cad.reports.plotting.heat_map import HEAT_COLOURS, close_scale, whole_scale


def difference(scale, one: float, other: float) -> float:
    """Of two colours: 0 to 1, the largest difference of red, green or blue."""
    return float(np.abs(np.array(HEAT_COLOURS(scale(one))) - np.array(HEAT_COLOURS(scale(other)))).max())


@pytest.mark.parametrize("values", [[0.70, 0.71], [0.99, 1.0], [0.0, 0.01], [0.5, 0.5], [-0.02, 0.01]])
def test_tiny_differences_are_not_stretched(values: list[float]) -> None:
    scale = close_scale(values, shares=True)
    assert difference(scale, *values) < 0.08
    assert scale.vmin <= min(values) and max(values) <= scale.vmax
    assert scale.vmax - scale.vmin >= 0.4 - 1e-9
    assert min(values) < 0 or scale.vmin >= 0
    assert scale.vmax <= 1 + 1e-9


def test_large_differences_use_all_colours() -> None:
    scale = close_scale([0.373, 0.956], shares=True)
    assert (scale.vmin, scale.vmax) == (pytest.approx(0.3), pytest.approx(1.0))
    assert difference(scale, 0.373, 0.956) > 0.5


@pytest.mark.parametrize("factor", [0.002, 1, 150, -150])
def test_raw_returns_of_any_size_have_a_scale(factor: float) -> None:
    close, far = [0.97 * factor, factor], [0.2 * factor, factor]
    assert difference(close_scale(close, shares=False), *close) < 0.15
    assert difference(whole_scale(far, shares=False), *far) > 0.5
    for values in (close, far, [factor, -factor], [0.0, 0.0]):
        scale = whole_scale(values, shares=False)
        assert scale.vmin < scale.vmax
        assert scale.vmin <= min(values) + 1e-9 and max(values) <= scale.vmax + 1e-9


def test_shares_of_the_optimum_begin_at_0() -> None:
    scale = whole_scale([0.4, 1.2], shares=True)
    assert (scale.vmin, scale.vmax) == (0.0, 1.2)
