"""What a submission will cost, estimated before it is submitted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cad.cluster.arrays import StageArray
from cad.cluster.profile import Profile
from cad.errors import CadError
from cad.experiments.cost.calibration import measured_rates
from cad.experiments.cost.estimate import Allocation, Estimate, estimate
from cad.experiments.plan.stage import Stage


def submission_cost(arrays: tuple[StageArray, ...], profile: Profile, root: Path) -> Estimate:
    """What the stages of ``arrays`` take, by the rates of finished stages or of a short calibration.

    Assumes a free cluster: as many tasks of a kind run at a time as the throttle allows.  Hours are
    hours of the allocation, used or not; a stage with a GPU counts as GPU-hours.

    A pack takes the sum of what its trainings take.  Where finished trainings were packed, their rates are
    shares of a pack, so that the sum has its gain; until then none is assumed.
    """
    limits = {array.kind: profile.for_stage(array.kind).throttle for array in arrays}
    given: dict[str, Allocation] = {}
    for kind, throttle in list(limits.items()):
        of_kind = [array for array in arrays if array.kind == kind]
        tasks = [task for array in of_kind for task in array.tasks]
        packed = any(array.packed for array in of_kind)
        for number, task in enumerate(tasks):
            # Those of a pack are as one after the other: tasks go to lanes of one at a time.
            pool = f"{kind} {number % throttle}" if packed else kind
            limits[pool] = 1 if packed else throttle
            given |= {stage.name: allocation(profile, kind, pool) for stage in task}
    stages = tuple(stage for array in arrays for stage in array.stages)

    def allocation_of(stage: Stage) -> Allocation:
        return given[stage.name]

    rates = measured_rates(root, stages, lambda stage: given[stage.name].device)
    return estimate(stages, allocation_of, rates, limits)


def allocation(profile: Profile, kind: str, pool: str = "") -> Allocation:
    """The allocation of a stage of this kind."""
    request = profile.for_stage(kind)
    return Allocation(
        device="cuda" if request.n_gpus else "cpu",
        cores=request.ranks * request.cpus,
        gpus=request.nodes * request.n_gpus,
        workers=request.cpus,
        ranks=request.ranks,
        pool=pool,
    )


def require_approval(cost: Estimate, max_hours: float | None, ask: Callable[[str], bool] | None) -> None:
    """Raise :class:`CadError` when the cost is above ``max_hours`` and the user does not agree to it.

    ``ask`` asks the user; None without a terminal.
    """
    if max_hours is None or not cost.exceeds(max_hours):
        return
    above = f"above --max-hours {max_hours:g}" if not cost.unknown else "not known to be within --max-hours"
    if ask is None:
        raise CadError(
            f"nothing was submitted: the estimate is {above}; raise the limit, or answer on a terminal"
        )
    if not ask(f"The estimate is {above}. Submit anyway?"):
        raise CadError("nothing was submitted")
