"""The estimated cost of a submission, and who may exceed a limit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cad.cluster.arrays import plan_arrays
from cad.cluster.cost import allocation, pack_times, require_approval, submission_cost
from cad.cluster.dry_run import in_words
from cad.cluster.profile import Profile
from cad.cluster.submit import packs_of, room_of_task
from cad.config import from_mapping, load
from cad.errors import CadError, UsageError
from cad.experiments.cost.estimate import Allocation, Estimate, Rate, Rates, rate_key, steps_of, work_of
from cad.experiments.plan.cells import distinct_stages, expand
from cad.experiments.run.pack_size import training_bytes
from cad.schema import ExperimentConfig

PROFILES = Path(__file__).parents[2] / "slurm" / "profiles"
COST = Estimate({"train": 3.0}, {}, 60.0, ("finished",), {})


def test_what_is_allocated_counts():
    profile = load(Profile, [PROFILES / "multinode.yaml"]).value
    assert allocation(profile, "train") == Allocation("cuda", 2 * 4 * 8, 2 * 4, 8, 8)
    assert allocation(profile, "histories") == Allocation("cpu", 32, 0, 32, 1)


@pytest.mark.parametrize("hours", [None, 3.0, 100.0])
def test_below_the_limit_nobody_is_asked(hours):
    require_approval(COST, hours, lambda _: pytest.fail("asked"))
    require_approval(COST, hours, None)


def test_above_the_limit_the_user_decides():
    asked = []
    require_approval(COST, 2.9, lambda question: not asked.append(question))
    assert "--max-hours 2.9" in asked[0]
    with pytest.raises(CadError, match="nothing was submitted"):
        require_approval(COST, 2.9, lambda _: False)


def test_without_a_terminal_the_answer_is_no():
    with pytest.raises(CadError, match=r"above --max-hours 2\.9"):
        require_approval(COST, 2.9, None)
    unknown = Estimate({}, {}, 0.0, (), {"train": 3})
    with pytest.raises(CadError, match="not known"):
        require_approval(unknown, 1000, None)


@pytest.mark.parametrize(("pack", "throttle", "seconds"), [(1, 4, 20), (2, 4, 30), (4, 4, 50), (2, 1, 50)])
def test_a_pack_takes_the_sum_of_its_trainings(pack, throttle, seconds, tmp_path, monkeypatch):
    data = {"name": "e", "arms": [{"name": "a"}], "seeds": [0, 1, 2, 3]}
    cells = expand(from_mapping(ExperimentConfig, data, "e"), "e")
    stages = [stage for stage in distinct_stages(cells) if stage.kind in ("train", "evaluate")]
    request = {"pack": pack, "throttle": throttle}
    profile = from_mapping(Profile, {"stages": {"train": request, "evaluate": {"throttle": 4}}}, "p")
    rates = Rates(
        Rate(rate_key(stage, "cpu"), work_of(stage), steps_of(stage) / 10, "finished") for stage in stages
    )
    monkeypatch.setattr("cad.cluster.cost.measured_rates", lambda *_: rates)
    cost = submission_cost(plan_arrays(tuple(stages), {}, 100, pack=packs_of(profile)), profile, tmp_path)
    assert cost.core_hours["train"] == pytest.approx(4 * 10 / 3600)
    assert cost.seconds == pytest.approx(seconds)


def test_auto_packs_by_the_memory_of_a_task():
    data = {"name": "e", "arms": [{"name": "a"}], "seeds": list(range(8))}
    trainings = [cell.training for cell in expand(from_mapping(ExperimentConfig, data, "e"), "e")]

    def sizes(**request):
        profile = from_mapping(Profile, {"stages": {"train": {"pack": "auto", **request}}}, "p")
        return [len(pack) for pack in packs_of(profile)(trainings)]

    one = training_bytes(trainings[0].config) / 2**30
    assert sizes(memory_gb=1 + 4.5 * one) == [4, 4]
    assert sizes(memory_per_cpu_gb=(1 + 4.5 * one) / 2, cpus=2) == [4, 4]
    assert sizes(memory_gb=1) == []
    assert sizes(memory_gb=500) == [8]
    for wrong, why in (
        ({"memory_gb": None}, "pack: auto needs memory_gb"),
        ({"tasks_per_node": 2}, "is one process"),
        ({"pack": 0}, "pack"),
    ):
        with pytest.raises(UsageError, match=why):
            sizes(**wrong)


@pytest.fixture
def unequal(monkeypatch):
    """Seven trainings of two shapes, 10 s each; three are of the same shape."""
    arms = [
        {"name": "a", "seeds": [0, 1, 2]},
        {"name": "b", "grid": {"model.n_latent": [4, 8, 32, 64]}, "seeds": [0]},
    ]
    cells = expand(from_mapping(ExperimentConfig, {"name": "e", "arms": arms}, "e"), "e")
    stages = tuple(stage for stage in distinct_stages(cells) if stage.kind == "train")
    rates = Rates(
        Rate(rate_key(stage, device), work_of(stage), steps_of(stage) / 10, "finished")
        for stage in stages
        for device in ("cpu", "cuda")
    )
    monkeypatch.setattr("cad.cluster.cost.measured_rates", lambda *_: rates)
    return stages


@pytest.mark.parametrize(
    ("request_", "packs", "seconds"),
    [
        ({"pack": 7}, [7], [70]),
        ({"pack": 7, "cpus": 4, "memory_gb": 99}, [7], [20]),
        ({"pack": 7, "cpus": 99, "memory_gb": 99}, [7], [10]),
        ({"pack": 7, "cpus": 4, "memory_gb": 4.5}, [7], [40]),  # two fit
        ({"pack": 4, "cpus": 2, "memory_gb": 99}, [3, 4], [20, 20]),
        ({"pack": 7, "cpus": 4, "memory_gb": 99, "gpus": 1}, [7], [70]),
    ],
)
def test_unequal_trainings_take_as_long_as_the_cores_of_their_task_need(
    request_, packs, seconds, unequal, tmp_path
):
    profile = from_mapping(Profile, {"stages": {"train": request_}}, "p")
    arrays = plan_arrays(unequal, {}, 100, pack=packs_of(profile))
    assert sorted(len(task) for array in arrays for task in array.tasks) == packs
    cost = submission_cost(arrays, profile, tmp_path)
    assert sorted(cost.shared.values()) == pytest.approx(seconds)
    # An allocation is paid for until its last process has ended.
    gpus, cpus = request_.get("gpus"), request_.get("cpus", 1)
    hours = (cost.gpu_hours if gpus else cost.core_hours)["train"]
    assert hours == pytest.approx((gpus or cpus) * sum(seconds) / 3600)
    assert cost.seconds == pytest.approx(max(seconds))
    assert pack_times(cost, profile).endswith("one attempt has 4 h 00 min (minutes), then it goes on")


def test_a_dry_run_says_what_a_pack_takes(unequal):
    def words(**request):
        profile = from_mapping(Profile, {"stages": {"train": {"pack": 7, **request}}}, "p")
        (pack,) = packs_of(profile)(list(unequal))
        return re.sub(r"\d\.\d GiB", "few GiB", in_words(tuple(pack), room_of_task(profile)))

    assert words() == "a pack of 7 in 5 processes, 1 side by side, about few GiB"
    alone = "a pack of 7 in 7 processes"
    assert words(cpus=4, memory_gb=64) == f"{alone}, 4 side by side, about few GiB"
    tight = f"{alone}, 2 side by side, about few GiB; more would exceed its memory"
    assert words(cpus=4, memory_gb=4.5) == tight
    assert words(gpus=1, cpus=4, memory_gb=32).startswith("a pack of 7 in 5 processes, 4 side by side")
