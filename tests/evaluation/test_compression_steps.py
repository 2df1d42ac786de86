"""When roll-outs compressed: recorded, reported as it happens, replayed from what is stored."""

from __future__ import annotations

import numpy as np
import pytest

from cad.envs.registry import task_family
from cad.evaluation.compression_steps import CompressionEvent, CompressionRecorder, replay
from cad.evaluation.rollout import roll_out


class Counts:
    """The part of a memory that the recorder reads."""

    def __init__(self) -> None:
        self.compressions: int | np.ndarray = np.zeros(4, dtype=np.int64)
        self.chosen: int | np.ndarray = np.zeros(4, dtype=np.int64)


def test_steps_are_recorded_for_each_roll_out_and_reported_once():
    reported: list[CompressionEvent] = []
    recorder = CompressionRecorder([7, 3], 2, 10, reported.append)
    memory = Counts()
    recorder.observe(5, memory)
    memory.compressions, memory.chosen = np.array([1, 0, 1, 0]), np.array([1, 0, 0, 0])
    recorder.observe(12, memory)
    recorder.observe(13, memory)
    memory.compressions, memory.chosen = memory.compressions + 1, memory.chosen + 1
    recorder.observe(20, memory)
    steps, chosen = recorder.compression_steps()
    assert steps.tolist() == [[[12, 20], [20, -1]], [[12, 20], [20, -1]]]
    assert chosen.tolist() == [[[True, True], [True, False]], [[False, True], [True, False]]]
    assert [(e.step, e.rollouts, e.lengths, e.chosen) for e in reported] == [
        (12, ((7, 0),), (12,), True),
        (12, ((3, 0),), (12,), False),
        (20, ((7, 0), (7, 1), (3, 0), (3, 1)), (8, 20, 8, 20), True),
    ]
    assert [str(event) for event in reported] == [
        "step 12 (episode 2, step 2): </compress> emitted, 12 steps compressed; 1 of 4: task 7 roll-out 1",
        "step 12 (episode 2, step 2): window full, 12 steps compressed; 1 of 4: task 3 roll-out 1",
        "step 20 (episode 2, step 10): </compress> emitted, 8 to 20 steps compressed; all 4 roll-outs",
    ]
    again: list[CompressionEvent] = []
    replay((steps, chosen), [7, 3], 10, again.append)
    assert again == reported


def test_a_memory_in_lock_step_counts_for_all():
    recorder = CompressionRecorder([7, 3], 2, 10)
    memory = Counts()
    memory.compressions, memory.chosen = 1, 0
    recorder.observe(8, memory)
    steps, chosen = recorder.compression_steps()
    assert steps.tolist() == [[[8], [8]], [[8], [8]]]
    assert not chosen.any()


def test_many_roll_outs_are_named_in_part():
    rollouts = tuple((task, 0) for task in range(20))
    event = CompressionEvent(3, 5, rollouts, (3,) * 20, False, 30)
    assert str(event).endswith(
        "20 of 30: " + ", ".join(f"task {t} roll-out 1" for t in range(8)) + " and 12 more"
    )


@pytest.mark.parametrize("kind", ["ad", "compressed_ad", "region_ad"])
def test_every_model_reports_what_it_records(kind, tiny_config, loud_model):
    config = tiny_config(kind)
    reported: list[CompressionEvent] = []
    settings = {"n_rollouts": 2, "n_episodes": 8, "seed": 0, "on_compress": reported.append}
    result = roll_out(loud_model(config), task_family(config.env), [3, 9], **settings)
    assert (
        sum(len(event.rollouts) for event in reported)
        == result.compressions.sum()
        == (result.compression_steps > 0).sum()
    )
    again: list[CompressionEvent] = []
    replay((result.compression_steps, result.chosen), [3, 9], 5, again.append)
    assert again == reported
    if kind == "compressed_ad":
        # 40 steps and a window of 8: compressed before steps 9, 17, 25 and 33.
        assert result.compression_steps.tolist() == 2 * [2 * [[8, 16, 24, 32]]]
    assert bool(reported) == (kind != "ad")
    assert result.chosen.any() == (kind == "region_ad")
