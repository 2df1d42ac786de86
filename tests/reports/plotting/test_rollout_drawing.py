"""Strips and animations of roll-outs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cad.envs.registry import task_family
from cad.evaluation.replay import replay_actions, rollout_keys
from cad.reports import (
    CellResult,
    WatchedRollout,
    animation_gif,
    strip_png,
)
from cad.reports.plotting.rollout_drawing import strip_episodes

Make = Callable[..., CellResult]


@pytest.mark.parametrize("name", ["darkroom", "darkroom_permuted", "dark_key_to_door"])
def test_strips_and_animations_of_every_family(name: str, cell: Make) -> None:
    env = cell().config.env.model_copy(update={"name": name, "size": 5, "horizon": 6, "n_tasks": None})
    moves = np.random.default_rng(0).integers(0, 5, (1, 6 * 3), dtype=np.uint8)
    paths = replay_actions(task_family(env), [7], moves, rollout_keys(0, [7], 1))
    rollout = WatchedRollout("a <title> $x_1$", paths, (6, 9))
    assert [rollout.compressed_before(episode) for episode in range(3)] == [[], [0, 3], []]
    strip, animation = strip_png(rollout), animation_gif(rollout)
    assert strip.startswith(b"\x89PNG")
    assert animation.startswith(b"GIF89a")
    assert (strip, animation) == (strip_png(rollout), animation_gif(rollout))


def test_episodes_of_a_strip(cell: Make) -> None:
    family = task_family(cell().config.env)

    def episodes(n: int, actual: int | None) -> list[int]:
        moves = np.full((1, n * 20), 4, dtype=np.uint8)  # stays at (4, 4)
        if actual is not None:
            moves[0, 20 * actual] = 0
        replayed = replay_actions(family, [5 * 9 + 4], moves, rollout_keys(0, [49], 1))
        return [episode + 1 for episode in strip_episodes(WatchedRollout("", replayed, ()))]

    assert episodes(5, None) == [1, 2, 3, 4, 5]
    assert episodes(50, None) == [1, 2, 3, 5, 9, 16, 29, 50]
    assert episodes(50, 11) == [1, 2, 3, 5, 12, 16, 29, 50]
    assert episodes(9, None)[-1] == 9
