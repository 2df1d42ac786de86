"""Where an experiment's numbers come from: its stages' own records, submissions, checksums, commands."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cad.config.schema import Config, EvaluationConfig
from cad.envs import split_tasks
from cad.experiments.directory import StageDirectory
from cad.experiments.job import FAILED
from cad.experiments.opened import OpenExperiment
from cad.experiments.origin import code_version, machine, machine_in_words, package_versions
from cad.experiments.plan import WARM_START_STAGE, Stage, distinct_stages
from cad.experiments.stages import HISTORIES_FILE
from cad.reports.results import Provenance, StageRecord
from cad.storage import sha256_file

# What `cad submit` leaves: in a stage's directory, and in the folder that this names.
_JOB_FILE, _SUBMISSION_FILE = "job.json", "submission.json"


def gather_provenance(experiment: OpenExperiment, *, public: bool = False) -> Provenance:
    """Code, packages, machines, stages, protocol and the checksums of what went in.

    For the ``public`` processors, job numbers and absolute paths are left out.
    """
    version, dirty = code_version()
    stages = distinct_stages(experiment.cells)
    records = _stage_records(experiment.root, stages, public=public)
    return Provenance(
        code_version=version,
        dirty=dirty,
        packages=package_versions(),
        hardware=machine_in_words(machine(), public=public),
        commands=_commands(experiment, records, version, public=public),
        protocol=protocol([cell.config for cell in experiment.cells]),
        inputs=_checksums(experiment, stages, public=public),
        stages=tuple(records),
    )


def _commands(
    experiment: OpenExperiment, records: list[StageRecord], version: str, *, public: bool
) -> list[str]:
    """From the code to the report; on a cluster `cad submit` does what `cad run` does.

    The code is that of the stages where they agree, else that of the report.
    """
    together = experiment.made_of or (experiment,)
    files = [str(_shown(each.file, public=public)) for each in together]
    compare = ["--compare"] if experiment.made_of else []
    versions = {record.code_version for record in records if record.code_version is not None}
    commit = (versions.pop() if len(versions) == 1 else version).partition("+")[2]
    return [
        *([f"git checkout {commit}"] if commit else []),
        *(
            shlex.join(["cad", "run", file, *each.overrides])
            for file, each in zip(files, together, strict=True)
        ),
        shlex.join(["cad", "report", *files, *compare, *experiment.overrides]),
    ]


def _shown(path: Path, *, public: bool) -> Path:
    return Path(path.name) if public and path.is_absolute() else path


def _stage_records(root: Path, stages: tuple[Stage, ...], *, public: bool) -> list[StageRecord]:
    @functools.cache
    def submission(folder: str) -> dict[str, Any]:
        return _read(root / folder / _SUBMISSION_FILE)

    return [_record(StageDirectory(root, stage), submission, public=public) for stage in stages]


def _record(
    directory: StageDirectory, submission: Callable[[str], dict[str, Any]], *, public: bool
) -> StageRecord:
    """What a stage and its submission say; stages of before something was recorded do not know it."""
    state = "done" if directory.done else "failed" if directory.file(FAILED).exists() else "missing"
    said = directory.facts() if state == "done" else {}
    made: dict[str, Any] = said.get("made_by", {})
    job = _read(directory.file(_JOB_FILE))
    submitted = submission(job["folder"]) if "folder" in job else {}
    version, dirty = made.get("code_version"), made.get("code_differs_from_commit")
    if submitted and version is not None and "+" not in version:
        # A job runs a frozen copy, which knows no commit: the submission does.
        version, dirty = submitted.get("code_version"), submitted.get("code_differs_from_commit")
    return StageRecord(
        name=directory.stage.name,
        kind=directory.stage.kind,
        state=state,
        wall_seconds=said.get("wall_seconds"),
        cores=said.get("cores"),
        attempts=said.get("attempts"),
        code_version=version,
        dirty=dirty,
        packages=made.get("packages", {}),
        hardware=machine_in_words(made["machine"], public=public) if "machine" in made else None,
        image=made.get("image_sha256") or submitted.get("image_sha256"),
        job_id=None if public else job.get("job_id"),
    )


def _read(path: Path) -> dict[str, Any]:
    """A note that may not be there, or not be whole: then it says nothing."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _checksums(experiment: OpenExperiment, stages: tuple[Stage, ...], *, public: bool) -> dict[str, str]:
    """SHA-256 of the experiment's file, of all histories and of weights that came from elsewhere."""
    histories = [
        StageDirectory(experiment.root, stage).file(HISTORIES_FILE)
        for stage in stages
        if stage.kind == "histories"
    ]
    files = {f"{file.parent.name}/{file.name}": file for file in histories}
    files[str(_shown(experiment.file, public=public))] = experiment.file
    for cell in experiment.cells:
        for path in (cell.config.train.pretrained_encoder_path, cell.config.train.init_from_ad):
            if path is not None and path != WARM_START_STAGE:
                files[str(_shown(Path(path), public=public))] = Path(path)
    return {name: sha256_file(file) for name, file in files.items() if file.exists()}


def _acting(evaluation: EvaluationConfig) -> str:
    if evaluation.greedy:
        return "the most likely action"
    text = f"actions sampled at temperature {evaluation.temperature:g}"
    if evaluation.first_temperature is not None:
        text += f", annealed from {evaluation.first_temperature:g} over {evaluation.anneal_episodes} episodes"
    return text


def protocol(configs: Sequence[Config]) -> str:
    """How the numbers came about, in words; cells may differ in their split seed and how they act."""
    config = configs[0]
    seeds = sorted({each.env.split_seed for each in configs})
    named = "split seed" if len(seeds) == 1 else "split seeds"
    split, evaluation = split_tasks(config.env), config.evaluation
    where = " in the validation tasks, to choose settings" if evaluation.tasks == "validation" else ""
    ways = " or ".join(sorted({_acting(each.evaluation) for each in configs}))
    return (
        f"{config.env.name}: {len(split.train)} training, {len(split.validation)} validation and "
        f"{len(split.heldout)} held-out tasks ({named} {', '.join(map(str, seeds))}). Held-out tasks "
        "are neither trained on nor looked at before the end; the last checkpoint is evaluated, none is "
        f"selected. Evaluation{where}: {evaluation.n_rollouts} roll-outs of {evaluation.n_episodes} episodes "
        f"a task, {ways}, evaluation seed {evaluation.seed}, no weight update, memory kept "
        "across episodes."
    )
