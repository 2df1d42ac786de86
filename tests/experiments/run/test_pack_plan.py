"""Which trainings a task works on, in which processes, and how many of these run side by side."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from cad.config import from_mapping
from cad.experiments.plan.cells import distinct_stages, expand
from cad.experiments.plan.experiment import open_experiment
from cad.experiments.plan.stage import Stage
from cad.experiments.run.pack_plan import (
    Room,
    gpu_bytes,
    host_bytes,
    key_of,
    mixed_packs,
    processes_of,
    work_of,
)
from cad.experiments.run.pack_size import PROCESS_BYTES, training_bytes
from cad.schema import ExperimentConfig

ABLATION = Path(__file__).parents[3] / "experiments" / "ablation.yaml"


@pytest.fixture(scope="module")
def ablation(tmp_path_factory) -> list[Stage]:
    """54 trainings: 18 shapes, three seeds each."""
    root = tmp_path_factory.mktemp("runs")
    return [cell.training for cell in open_experiment(ABLATION, [], root).cells]


def trainings(*arms, **more) -> list[Stage]:
    config = from_mapping(ExperimentConfig, {"name": "e", "arms": list(arms), **more}, "e")
    return [stage for stage in distinct_stages(expand(config, "e")) if stage.kind == "train"]


def shapes(stages) -> Counter:
    return Counter(map(key_of, stages))


def test_an_ablation_becomes_two_tasks_that_take_equally_long(ablation):
    packs = mixed_packs(ablation, 27)
    assert [len(pack) for pack in packs] == [27, 27]
    assert {stage.name for pack in packs for stage in pack} == {stage.name for stage in ablation}
    for pack in packs:
        assert set(shapes(pack).values()) == {3}
    work = [sum(map(work_of, pack)) for pack in packs]
    assert max(work) < 1.1 * min(work)


@pytest.mark.parametrize(("size", "sizes"), [(1, []), (2, [2] * 27), (3, [3] * 18), (54, [54]), (99, [54])])
def test_no_task_has_more_than_were_asked_for(ablation, size, sizes):
    assert sorted(len(pack) for pack in mixed_packs(ablation, size)) == sizes


def test_those_of_one_shape_stay_together(ablation):
    for size in (8, 10, 20):
        packs = mixed_packs(ablation, size)
        assert sum(len(pack) for pack in packs) == 54 and max(len(pack) for pack in packs) <= size
        assert all(count == 3 for pack in packs for count in shapes(pack).values())


def test_what_is_more_than_a_task_takes_is_parted():
    same = trainings({"name": "a"}, seeds=list(range(10)))
    assert sorted(len(pack) for pack in mixed_packs(same, 4)) == [2, 4, 4]
    one = training_bytes(same[0].config)
    assert sorted(len(pack) for pack in mixed_packs(same, 8, 4.5 * one)) == [2, 4, 4]
    assert mixed_packs(same, 8, 0.5 * one) == mixed_packs(same, 8, 1e-9) == mixed_packs(same, 8, 0.0) == []
    assert mixed_packs([], 8) == []
    # Of two shapes, too, no more than fit at once.
    mixed = trainings({"name": "a"}, {"name": "b", "set": {"model.n_latent": 4}}, seeds=[0, 1])
    assert len(shapes(mixed)) == 2
    room = 1.01 * max(training_bytes(stage.config) for stage in mixed)
    assert [len(pack) for pack in mixed_packs(mixed, 8, 4 * room)] == [4]
    assert sorted(len(pack) for pack in mixed_packs(mixed, 8, 2 * room)) == [2, 2]


def test_what_trains_by_itself_is_a_process_of_its_own_and_several_ranks_a_task():
    stages = trainings(
        {"name": "a", "seeds": [0, 1]},
        {"name": "b", "set": {"train.activation_checkpointing": True}, "seeds": [2, 3]},
        {"name": "c", "set": {"train.engine": "accelerate"}, "seeds": [4, 5]},
    )
    (pack,) = mixed_packs(stages, 8)
    assert {stage.config.seed for stage in pack} == {0, 1, 2, 3}
    assert sorted(len(some) for some in processes_of(pack, Room())) == [1, 1, 2]


@pytest.mark.parametrize(
    ("room", "sizes"),
    [(Room(1), [3] * 9), (Room(8, gpu=True), [3] * 9), (Room(1, gpu=True), [3] * 9)],
)
def test_one_core_and_a_gpu_work_on_a_shape_at_once_and_cores_on_parts(ablation, room, sizes):
    pack = mixed_packs(ablation, 27)[0]
    processes = processes_of(pack, room)
    assert [len(some) for some in processes] == sizes
    assert all(len(shapes(some)) == 1 for some in processes)
    work = [sum(map(work_of, some)) for some in processes]
    assert work == sorted(work, reverse=True)


def test_no_process_holds_up_the_other_cores(ablation):
    pack = mixed_packs(ablation, 27)[0]
    processes = processes_of(pack, Room(8))
    assert {stage.name for some in processes for stage in some} == {stage.name for stage in pack}
    share = sum(map(work_of, pack)) / 8
    assert all(len(some) == 1 or sum(map(work_of, some)) <= share / 4 for some in processes)
    assert len(processes) > 20


def test_equal_trainings_are_shared_out_so_that_cores_end_together():
    same = trainings({"name": "a"}, seeds=list(range(32)))
    assert [len(some) for some in processes_of(same, Room(2))] == [4] * 8
    assert [len(some) for some in processes_of(same, Room(64))] == [1] * 32
    assert [len(some) for some in processes_of(same, Room(1))] == [32]


def test_cores_and_memory_say_how_many_run_side_by_side(ablation):
    processes = processes_of(mixed_packs(ablation, 27)[0], Room(8))
    assert Room(8).at_a_time(processes) == 8 and Room(99).at_a_time(processes) == len(processes)
    three = host_bytes(processes[:3], gpu=False)
    assert three > 2 * PROCESS_BYTES
    assert Room(8, three).at_a_time(processes) == 3
    assert not Room(8, three).holds(processes[:4])
    assert Room(8, 1.0).at_a_time(processes) == 1  # one is tried whatever the estimate says
    # On a GPU the card holds the trainings, the machine CUDA's libraries.
    assert host_bytes(processes[:1], gpu=True) == 3 * PROCESS_BYTES
    assert Room(8, 7 * PROCESS_BYTES, gpu=True).at_a_time(processes) == 2
    assert Room(8, None, gpu=True, gpu_memory=gpu_bytes(processes[:3])).at_a_time(processes) == 3
