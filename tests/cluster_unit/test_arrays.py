"""Which stages go into which array, and what each waits for."""

from __future__ import annotations

import pytest

from cad.cluster.arrays import Planned, ResourceMultiplier, dependency, fitting, plan_arrays, share_throttle
from cad.config import from_mapping
from cad.experiments.plan.cells import distinct_stages, expand
from cad.experiments.plan.stage import Stage
from cad.schema import ExperimentConfig


@pytest.fixture
def stages() -> tuple[Stage, ...]:
    """One collection, five trainings, five evaluations."""
    data = {"name": "e", "arms": [{"name": "a", "grid": {"model.n_latent": [1, 2, 3, 4, 5]}}]}
    return distinct_stages(expand(from_mapping(ExperimentConfig, data, "e"), "e"))


def of_kind(stages, kind):
    return [stage for stage in stages if stage.kind == kind]


def by_two(trainings):
    """Packs of two, as they come."""
    packs = [trainings[at : at + 2] for at in range(0, len(trainings), 2)]
    return [pack for pack in packs if pack[0].kind == "train" and len(pack) == 2]


def waiting(arrays):
    """Kind, sizes of the tasks, and `--dependency`, of every array."""
    ids = [str(10 + number) for number in range(len(arrays))]
    return [(a.kind, [len(task) for task in a.tasks], dependency(a, arrays, ids)) for a in arrays]


def shape(arrays):
    return [(a.kind, len(a.stages), a.after, a.pairwise) for a in arrays]


def test_one_array_a_kind_chained(stages):
    arrays = plan_arrays(stages, {}, 100)
    assert shape(arrays) == [
        ("histories", 1, (), None),
        ("train", 5, (Planned(0, 0),), None),
        ("evaluate", 5, (), 1),
    ]
    ids: list[str] = []
    words = []
    for number, array in enumerate(arrays):
        words.append(dependency(array, arrays, ids))
        ids.append(str(10 + number))
    assert words == [None, "afterok:10", "aftercorr:11"]


def test_pairs_are_pairs(stages):
    train, evaluate = plan_arrays(stages, {}, 100)[1:]
    assert [stage.inputs[0].name for stage in evaluate.stages] == [stage.name for stage in train.stages]


def test_split_at_the_largest_array(stages):
    arrays = plan_arrays(stages, {}, 2)
    assert [(a.kind, len(a.stages)) for a in arrays] == [
        ("histories", 1), ("train", 2), ("train", 2), ("train", 1),
        ("evaluate", 2), ("evaluate", 2), ("evaluate", 1),
    ]  # fmt: skip
    assert [a.pairwise for a in arrays[4:]] == [1, 2, None]
    # The last pair is of ordinary jobs, which have no index.
    assert arrays[6].after == (Planned(3, 0),)
    assert dependency(arrays[6], arrays, ["10", "11", "12", "13", "14", "15"]) == "afterok:13"


def test_what_there_is_no_room_for_is_left_over(stages):
    assert fitting(stages, None) == stages and fitting(stages, 0) == ()
    for room in range(1, len(stages)):
        now = {stage.name for stage in fitting(stages, room)}
        assert len(now) == room
        assert all(needed.name in now for stage in stages if stage.name in now for needed in stage.inputs)
    # Whole cells: the histories, two trainings, two evaluations.
    assert [stage.kind for stage in fitting(stages, 5)].count("evaluate") == 2


def test_every_stage_once_whatever_the_size(stages):
    for size in range(1, 8):
        names = [stage.name for array in plan_arrays(stages, {}, size) for stage in array.stages]
        assert sorted(names) == sorted(stage.name for stage in stages)


def test_finished_inputs_are_not_waited_for(stages):
    wanted = tuple(stage for stage in stages if stage.kind != "histories")
    assert shape(plan_arrays(wanted, {}, 100)) == [("train", 5, (), None), ("evaluate", 5, (), 0)]


def test_running_inputs_are_joined(stages):
    wanted = tuple(stage for stage in stages if stage.kind == "evaluate")
    alive = {stage.name: f"7_{i}" for i, stage in enumerate(of_kind(stages, "train"))}
    arrays = plan_arrays(wanted, alive, 100)
    assert sorted(dependency(a, arrays, []) for a in arrays) == [f"afterok:7_{i}" for i in range(5)]


def test_some_done_some_running_some_to_do(stages):
    train, evaluate = of_kind(stages, "train"), of_kind(stages, "evaluate")
    wanted = (*train[2:], *evaluate)  # 0 is done, 1 is running
    arrays = plan_arrays(wanted, {train[1].name: "7"}, 100)
    ids = [str(20 + number) for number in range(len(arrays))]
    waits_for = {stage.name: dependency(array, arrays, ids) for array in arrays for stage in array.stages}
    assert waits_for[evaluate[0].name] is None
    assert waits_for[evaluate[1].name] == "afterok:7"
    assert {waits_for[stage.name] for stage in evaluate[2:]} == {"aftercorr:20"}


def test_a_stage_with_other_resources_has_an_array_of_its_own(stages):
    hungry = of_kind(stages, "train")[2].name
    arrays = plan_arrays(
        stages, {}, 100, lambda stage: ResourceMultiplier(memory=2.0 if stage.name == hungry else 1.0)
    )
    train = [a for a in arrays if a.kind == "train"]
    assert sorted((len(a.stages), a.multiplier.memory) for a in train) == [(1, 2.0), (4, 1.0)]
    ids = [str(20 + number) for number in range(len(arrays))]
    later = next(a for a in arrays if a.kind == "evaluate" and a.stages[0].inputs[0].name == hungry)
    number = next(n for n, a in enumerate(arrays) if a.stages[0].name == hungry)
    assert dependency(later, arrays, ids) == f"afterok:{ids[number]}"


def test_a_training_that_starts_from_another_one_waits_for_it():
    arms = [{"name": "a", "set": {"train.init_from_ad": "stage"}, "grid": {"model.n_latent": [1, 2]}}]
    data = {"name": "e", "arms": arms}
    wanted = distinct_stages(expand(from_mapping(ExperimentConfig, data, "e"), "e"))
    assert shape(plan_arrays(wanted, {}, 100)) == [
        ("histories", 1, (), None),
        ("train", 1, (Planned(0, 0),), None),
        ("train", 2, (Planned(1, 0),), None),
        ("evaluate", 2, (), 2),
    ]


@pytest.mark.parametrize(
    ("throttle", "shares"),
    [
        (64, [(2, None), (2, None), (1, None)]),
        (4, [(1, None), (2, None), (1, None)]),
        (2, [(1, None), (1, None), (1, 0)]),
        (1, [(1, None), (1, 0), (1, 1)]),
    ],
)
def test_the_throttle_holds_for_all_arrays_of_a_kind(throttle, shares, stages):
    trainings = tuple(of_kind(stages, "train"))
    arrays = share_throttle(plan_arrays(trainings, {}, 2), lambda _kind: throttle)
    assert [len(array.stages) for array in arrays] == [2, 2, 1]
    assert [(array.throttle, array.behind) for array in arrays] == shares
    lanes = [array for array in arrays if array.behind is None]
    assert sum(array.throttle for array in lanes) <= throttle


def test_an_array_waits_for_the_one_whose_place_it_takes(stages):
    arrays = share_throttle(plan_arrays(stages, {}, 2), lambda _kind: 1)
    assert [array.kind for array in arrays] == ["histories", *["train"] * 3, *["evaluate"] * 3]
    ids = [str(10 + number) for number in range(len(arrays))]
    assert [dependency(array, arrays, ids) for array in arrays] == [
        None, "afterok:10", "afterok:10,afterany:11", "afterok:10,afterany:12",
        "aftercorr:11", "aftercorr:12,afterany:14", "afterok:13,afterany:15",
    ]  # fmt: skip


def test_packs_are_tasks_and_what_needs_one_of_a_pack_waits_for_its_end(stages):
    arrays = plan_arrays(stages, {}, 100, pack=by_two)
    assert waiting(arrays) == [
        ("histories", [1], None),
        ("train", [2, 2], "afterok:10"),
        ("train", [1], "afterok:10"),
        ("evaluate", [1, 1], "afterany:11_0"),
        ("evaluate", [1, 1], "afterany:11_1"),
        ("evaluate", [1], "afterok:12"),
    ]
    for evaluate, task in zip(arrays[3:5], arrays[1].tasks, strict=True):
        assert [stage.inputs[0].name for stage in evaluate.stages] == [stage.name for stage in task]


def test_one_pack_is_a_job_without_an_index(stages):
    train = of_kind(stages, "train")
    wanted = (*train[:2], *of_kind(stages, "evaluate")[:2])
    assert waiting(plan_arrays(wanted, {}, 100, pack=by_two)) == [
        ("train", [2], None), ("evaluate", [1, 1], "afterany:10"),
    ]  # fmt: skip


def test_a_pack_that_slurm_has_already_is_waited_for_like_one_of_this_submission(stages):
    wanted = tuple(of_kind(stages, "evaluate"))
    ids = dict(
        zip((stage.name for stage in of_kind(stages, "train")), ["7", "7", "8", "9", "9"], strict=True)
    )
    arrays = plan_arrays(wanted, ids, 100, packed_jobs={"7", "9"})
    assert sorted(dependency(array, arrays, []) for array in arrays) == [
        "afterany:7", "afterany:9", "afterok:8",
    ]  # fmt: skip


def test_packs_are_of_equal_resources(stages):
    hungry = of_kind(stages, "train")[0].name
    arrays = plan_arrays(
        stages, {}, 100, lambda stage: ResourceMultiplier(2.0 if stage.name == hungry else 1.0), by_two
    )
    train = [(a.multiplier.memory, [len(task) for task in a.tasks]) for a in arrays if a.kind == "train"]
    assert train == [(1.0, [2, 2]), (2.0, [1])]


def test_a_pack_of_trainings_that_wait_for_different_stages_leaves_out_what_is_not_ready():
    arms = [{"name": "a", "set": {"train.init_from_ad": "stage"}, "grid": {"model.n_latent": [1, 2]}}]
    data = {"name": "e", "arms": arms, "seeds": [0, 1]}
    wanted = distinct_stages(expand(from_mapping(ExperimentConfig, data, "e"), "e"))
    begun = [stage for stage in wanted if stage.kind == "train" and stage.inputs[-1].kind == "histories"]
    assert len(begun) == 2  # a seed each

    def all_later(trainings):
        return [] if trainings[0].kind != "train" or trainings[0] in begun else [trainings]

    assert waiting(plan_arrays(wanted, {}, 100, pack=all_later)) == [
        ("histories", [1], None),
        ("train", [1, 1], "afterok:10"),
        ("train", [4], "afterany:11_0:11_1"),
        ("evaluate", [1, 1, 1, 1], "afterany:12"),
    ]


def test_a_limit_of_jobs_counts_packs_not_trainings(stages):
    def n_tasks(some):
        return sum(len(array.tasks) for array in plan_arrays(some, {}, 100, pack=by_two))

    for room in range(n_tasks(stages) + 1):
        now = fitting(stages, room, n_tasks)
        assert n_tasks(now) <= room and (now == stages or n_tasks(stages[: len(now) + 1]) > room)


def test_what_waits_for_a_collection_is_not_packed_with_what_waits_for_a_pretraining():
    arms = [
        {"name": "a", "set": {"model.kind": "ad"}},
        {"name": "b", "set": {"pretrain.enabled": True}, "grid": {"model.n_latent": [1, 2]}},
    ]
    data = {"name": "e", "arms": arms, "seeds": [0, 1]}
    wanted = distinct_stages(expand(from_mapping(ExperimentConfig, data, "e"), "e"))

    def all_together(trainings):
        return [trainings] if trainings[0].kind == "train" else []

    packs = [task for array in plan_arrays(wanted, {}, 100, pack=all_together) for task in array.tasks]
    packs = [task for task in packs if task[0].kind == "train"]
    assert sorted([stage.config.model.kind for stage in task] for task in packs) == [
        ["ad"] * 2, ["compressed_ad"] * 4,
    ]  # fmt: skip
