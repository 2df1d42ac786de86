"""Code of the user's that environments come from, and the stages that ran with another state of it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable
from pathlib import Path

from cad.checksums import DamagedFileError
from cad.envs.own_code import code_checksums
from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.stage import Stage

log = logging.getLogger(__name__)


def recorded_code(directory: StageDirectory) -> dict[str, str]:
    """Checksums, by module, of the user's code that a finished stage ran with; empty where none is known."""
    try:
        found = directory.record().get("made_by", {}).get("own_code", {}) if directory.done else {}
    except DamagedFileError:  # told by who reads it
        return {}
    return dict(found)


def warn_of_changed_code(root: Path, stages: Iterable[Stage]) -> None:
    """Name modules that have changed since stages ran that are done: these are not run again."""
    changed: dict[str, list[str]] = {}
    known = functools.cache(code_checksums)
    for stage in stages:
        module = stage.config.env.own_module
        if module is None:
            continue
        now = known(stage.config.env).get(module)
        then = recorded_code(StageDirectory(root, stage.name)).get(module)
        if now is not None and then is not None and now != then:
            changed.setdefault(module, []).append(stage.name)
    for module, names in changed.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        log.warning(
            "the code of %s has changed since %s%s ran: what is done is not run again; where rules changed, "
            "give the environment another name, or use another --root",
            module, names[0], more,
        )  # fmt: skip
