"""The estimated cost of a submission, and who may exceed a limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from cad.cluster.cost import allocation, require_approval
from cad.cluster.profile import Profile
from cad.config import load
from cad.errors import CadError
from cad.experiments.cost.estimate import Allocation, Estimate

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
