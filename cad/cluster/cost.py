"""What a submission will cost, estimated before it is submitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cad.cluster.arrays import StageArray
from cad.cluster.profile import Profile
from cad.cluster.submit import room_of_task
from cad.errors import CadError
from cad.experiments.cost.calibration import measured_rates
from cad.experiments.cost.estimate import Allocation, Estimate, Shared, estimate
from cad.experiments.durations import duration_in_words
from cad.experiments.plan.stage import Stage
from cad.experiments.run.pack_plan import processes_of


def submission_cost(arrays: tuple[StageArray, ...], profile: Profile, root: Path) -> Estimate:
    """What the stages of ``arrays`` take, by the rates of finished stages or of a short calibration.

    Assumes a free cluster: as many tasks of a kind run at a time as the throttle allows.  Hours are
    hours of the allocation, used or not; a stage with a GPU counts as GPU-hours.

    The trainings that a process of a pack works on take the sum of what they take.  Where finished trainings
    shared a process, their rates are shares, so that the sum has its gain; until then none is assumed.  On a
    CPU, processes side by side take no longer than one; on a GPU no gain is assumed of them.
    """
    limits = {array.kind: profile.for_stage(array.kind).throttle for array in arrays}
    given: dict[str, Allocation] = {}
    room = room_of_task(profile)
    for array in arrays:
        for task in array.tasks:
            own = allocation(profile, array.kind, array.kind)
            if len(task) > 1:
                processes = processes_of(task, room)
                n = 1 if room.gpu else room.at_a_time(processes)
                for stages_of_one in processes:
                    place = Shared(task[0].name, stages_of_one[0].name, n)
                    given |= {stage.name: replace(own, shared=place) for stage in stages_of_one}
            else:
                given[task[0].name] = own
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


def pack_times(cost: Estimate, profile: Profile) -> str | None:
    """In words, what tasks that are packs take, and what the profile gives them; None without packs."""
    if not cost.shared:
        return None
    least, most = (duration_in_words(pick(cost.shared.values())) for pick in (min, max))
    took = most if least == most else f"{least} to {most}"
    minutes = profile.for_stage("train").minutes
    return (
        f"a pack takes {took}; one attempt has {duration_in_words(60 * minutes)} (minutes), then it goes on"
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
