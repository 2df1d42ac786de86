"""What a submission will cost, told before it is submitted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cad.errors import CadError
from cad.experiments.estimate import Allocation, Estimate, estimate
from cad.experiments.measure import measured_paces
from cad.experiments.plan import Stage
from cad.launch.arrays import StageArray
from cad.launch.profile import Profile


def submission_cost(arrays: tuple[StageArray, ...], profile: Profile, root: Path) -> Estimate:
    """What the stages of ``arrays`` take, from the paces of finished stages, else of a short calibration.

    The cluster is taken as free: an array has as many tasks at a time as its throttle lets it.
    Hours are those of what is allocated; stages with a GPU count as GPU-hours.
    """
    given = {
        stage.name: allocation(profile, array.kind, pool=str(number))
        for number, array in enumerate(arrays)
        for stage in array.stages
    }
    stages = tuple(stage for array in arrays for stage in array.stages)

    def allocation_of(stage: Stage) -> Allocation:
        return given[stage.name]

    paces = measured_paces(root, stages, lambda stage: given[stage.name].device)
    limits = {str(number): profile.for_stage(array.kind).throttle for number, array in enumerate(arrays)}
    return estimate(stages, allocation_of, paces, limits)


def allocation(profile: Profile, kind: str, pool: str = "") -> Allocation:
    """What the profile gives a stage of this kind."""
    asked = profile.for_stage(kind)
    return Allocation(
        device="cuda" if asked.gpus else "cpu",
        cores=asked.ranks * asked.cpus,
        gpus=asked.nodes * asked.gpus,
        workers=asked.cpus,
        ranks=asked.ranks,
        pool=pool,
    )


def require_approval(cost: Estimate, max_hours: float | None, ask: Callable[[str], bool] | None) -> None:
    """Raise :class:`CadError` when the cost is above ``max_hours`` and nobody agrees to it.

    ``ask`` puts a question to the user; None where there is no terminal.
    """
    if max_hours is None or not cost.exceeds(max_hours):
        return
    above = f"above --max-hours {max_hours:g}" if not cost.unknown else "not known to be within --max-hours"
    if ask is None:
        raise CadError(f"nothing was submitted: the estimate is {above}; raise it, or answer on a terminal")
    if not ask(f"The estimate is {above}. Submit all the same?"):
        raise CadError("nothing was submitted")
