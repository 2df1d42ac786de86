"""Can the environments of an experiment's tasks be made?  Asked before anything runs or is queued."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from cad.envs.registry import task_family
from cad.errors import CadError, UsageError, first_line
from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.experiment import Experiment
from cad.experiments.plan.stage import Stage

log = logging.getLogger(__name__)


def require_environments(stages: Iterable[Stage], where: str = "", *, elsewhere: bool = False) -> None:
    """Begin an episode in an environment of every family and setting that ``stages`` use.

    A wrong id of Gymnasium, keyword arguments that it does not take or a space that is not supported
    would else be found by the first job.  One task is made, and one more for each other set of keyword
    arguments.

    Args:
        stages: what is still to be run.
        where: what messages begin with.
        elsewhere: jobs run in an image, which may have packages that are missing here: those are only
            warned of.

    Raises :class:`UsageError`.
    """
    # Only an evaluation's own config holds its environment: that of histories has another horizon.
    envs = [stage.config.evaluated_env if stage.kind == "evaluate" else stage.config.env for stage in stages]
    for env in {(env.name, str(env.rules)): env for env in envs}.values():
        try:
            family = task_family(env)
            family.environments(family.tried_tasks).reset()
        except Exception as error:  # code of others may raise anything
            what = (
                str(error)
                if isinstance(error, CadError)
                else f"env.name={env.name}: no episode can begin in its environments: "
                f"{type(error).__name__}: {first_line(error)}; 'cad doctor {where or 'FILE.yaml'}' tries all "
                "that the family promises"
            )
            message = f"{where}: {what}" if where else what
            if not (elsewhere and _is_import(error)):
                raise UsageError(message) from error
            log.warning("%s (the jobs' image may have what is missing here)", message)


def unfinished(experiment: Experiment, stages: Iterable[Stage]) -> list[Stage]:
    """Those of ``stages`` that are not done: no others need an environment."""
    return [stage for stage in stages if not StageDirectory(experiment.root, stage.name).done]


def _is_import(error: BaseException | None) -> bool:
    """Whether an error comes from a package that is missing."""
    while error is not None:
        if isinstance(error, ImportError):
            return True
        error = error.__cause__ or error.__context__
    return False
