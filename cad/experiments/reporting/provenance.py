"""Provenance of an experiment's numbers: records of its stages, submissions, checksums, commands."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cad.checksums import file_checksum, require_file, stage_remedy
from cad.config import EvaluationConfig
from cad.envs.config import EnvConfig
from cad.envs.own_code import code_checksums, code_folders
from cad.envs.split import split_tasks
from cad.experiments.plan.cells import distinct_stages
from cad.experiments.plan.directory import StageDirectory, StageFile, shared_its_task
from cad.experiments.plan.experiment import Experiment
from cad.experiments.plan.job_records import SubmissionRecord, read_submission
from cad.experiments.plan.stage import WARM_START_STAGE, Stage
from cad.experiments.reporting.environment_info import (
    code_version,
    in_commit,
    machine,
    machine_in_words,
)
from cad.packages import package_versions
from cad.reports import Provenance, StageRecord
from cad.schema import Config
from cad.storage import user_path


def gather_provenance(experiment: Experiment, *, public: bool = False) -> Provenance:
    """Code, packages, machines, stages, protocol and checksums of the inputs.

    For the ``public``, processors, job numbers and absolute paths are left out.
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
        own_code={
            module: digest for env in _own_envs(experiment) for module, digest in code_checksums(env).items()
        },
    )


def _commands(experiment: Experiment, records: list[StageRecord], version: str, *, public: bool) -> list[str]:
    """Commands from the checkout to the report; on a cluster, `cad submit` replaces `cad run`.

    The commit is that of the stages where they agree, else that of the report.
    """
    together = experiment.compared or (experiment,)
    files = [str(_shown(each.file, public=public)) for each in together]
    compare = ["--compare"] if experiment.compared else []
    versions = {record.code_version for record in records if record.code_version is not None}
    commit = (versions.pop() if len(versions) == 1 else version).partition("+")[2]
    missing = [
        name
        for name, each in zip(files, together, strict=True)
        if commit and not in_commit(each.file, commit)
    ]
    # The checkout gives the code; who follows these lines has to bring such a file.
    note = (
        f"  # the code alone: {', '.join(missing)} is not in this commit, or differs there" if missing else ""
    )
    return [
        *([f"git checkout {commit}{note}"] if commit else []),
        *(
            shlex.join(["cad", "run", file, *each.overrides]) + _wants_on_path(each)
            for file, each in zip(files, together, strict=True)
        ),
        shlex.join(["cad", "report", *files, *compare, *experiment.overrides]),
    ]


def _wants_on_path(experiment: Experiment) -> str:
    """A comment on the modules of the user's that a command has to find; empty where there are none."""
    modules = dict.fromkeys(env.own_module for env in _own_envs(experiment) if code_folders(env))
    names = ", ".join(filter(None, modules))
    return f"  # with the folder of {names} on PYTHONPATH" if names else ""


def _own_envs(experiment: Experiment) -> list[EnvConfig]:
    """The experiment's environments that come from a module of the user's."""
    envs = (cell.config.env for cell in experiment.cells)
    return list(dict.fromkeys(env for env in envs if env.own_module is not None))


def _shown(path: Path, *, public: bool) -> Path:
    return Path(path.name) if public and path.is_absolute() else path


def _stage_records(root: Path, stages: tuple[Stage, ...], *, public: bool) -> list[StageRecord]:
    submission = functools.cache(lambda folder: read_submission(root / folder))
    return [_record(StageDirectory(root, stage.name), submission, public=public) for stage in stages]


def _record(
    directory: StageDirectory, submission: Callable[[str], SubmissionRecord | None], *, public: bool
) -> StageRecord:
    """What a stage and its submission recorded; stages of earlier versions recorded less."""
    state = "done" if directory.done else "missing" if directory.failure() is None else "failed"
    stored = directory.record() if state == "done" else {}
    environment: dict[str, Any] = stored.get("made_by", {})
    job = directory.job()
    submitted = submission(job.folder) if job else None
    version, dirty = environment.get("code_version"), environment.get("code_differs_from_commit")
    if submitted and version is not None and "+" not in version:
        # A job runs a frozen copy of the code, which has no commit: only the submission knows it.
        version, dirty = submitted.code_version, submitted.code_differs_from_commit
    machine = environment.get("machine")
    return StageRecord(
        name=directory.name,
        kind=directory.kind,
        state=state,
        wall_seconds=stored.get("wall_seconds"),
        peak_memory_bytes=stored.get("peak_memory_bytes"),
        cpu_seconds=stored.get("cpu_seconds"),
        cores=stored.get("cores"),
        attempts=stored.get("attempts"),
        shared=shared_its_task(stored),
        code_version=version,
        dirty=dirty,
        packages=environment.get("packages", {}),
        hardware=machine_in_words(machine, public=public) if machine else None,
        image=environment.get("image_sha256") or (submitted.image_sha256 if submitted else None),
        job_id=job.job_id if job and not public else None,
        own_code=environment.get("own_code", {}),
    )


def _checksums(experiment: Experiment, stages: tuple[Stage, ...], *, public: bool) -> dict[str, str]:
    """SHA-256 of the experiment file, of all histories, and of weights from files that a user named."""
    histories = [
        StageDirectory(experiment.root, stage.name).file(StageFile.HISTORIES)
        for stage in stages
        if stage.kind == "histories"
    ]
    for file in histories:
        require_file(file, stage_remedy(file.parent))
    files = {f"{file.parent.name}/{file.name}": file for file in histories}
    files[str(_shown(experiment.file, public=public))] = experiment.file
    for cell in experiment.cells:
        train = cell.config.train
        for path in (train.pretrained_encoder_path, train.init_from_ad, train.weights):
            if path is not None and path != WARM_START_STAGE:
                file = user_path(path)
                files[str(_shown(file, public=public))] = file
    return {name: file_checksum(file) for name, file in files.items() if file.exists()}


def _acting(config: Config) -> str:
    evaluation = config.evaluation
    if evaluation.greedy:
        text = "the most likely action"
    else:
        text = f"actions sampled at temperature {evaluation.temperature:g}"
        if (first := evaluation.first_temperature) is not None:
            text += f", annealed from {first:g} over {evaluation.anneal_episodes} episodes"
    return text + _elsewhere(evaluation) + _demonstrated(evaluation) + _knocked_out(config)


def _elsewhere(evaluation: EvaluationConfig) -> str:
    changed = (f"{key} {value:,}" for key, value in (evaluation.env or {}).items())
    return f", in environments of {' and '.join(changed)}" if evaluation.env else ""


def _demonstrated(evaluation: EvaluationConfig) -> str:
    shown = evaluation.demonstrated_episodes
    if not shown:
        return ""
    first = "the first episode" if shown == 1 else f"the first {shown} episodes"
    return f", {first} demonstrated (optimal actions, which the model watches)"


def _knocked_out(config: Config) -> str:
    how, episode = config.evaluation.knock_out, config.evaluation.knock_out_episode
    if how is None:
        return ""
    what, whose = ("state", "that") if config.model.latents is None else ("latents", "those")
    by = f"{whose} of a roll-out in another task" if how == "other" else "noise"
    return f", {what} replaced by {by} before episode {episode}"


def protocol(configs: Sequence[Config]) -> str:
    """How models were evaluated, in words; what cells differ in is named of all of them."""
    tasks = " or ".join(dict.fromkeys(map(_split_in_words, dict.fromkeys(config.env for config in configs))))
    seeds = sorted({config.env.split_seed for config in configs})
    named = "split seed" if len(seeds) == 1 else "split seeds"
    methods = " or ".join(dict.fromkeys(config.source.METHOD for config in configs))
    evaluations = [config.evaluation for config in configs]
    ways = " or ".join(sorted(set(map(_acting, configs))))
    chance = sorted({evaluation.seed for evaluation in evaluations})
    return (
        f"{tasks} ({named} {', '.join(map(str, seeds))}). Method: {methods}. Held-out tasks "
        "are neither trained on nor looked at before the end; the last checkpoint is evaluated, none is "
        f"selected. Evaluation{_where(evaluations)}: "
        f"{' or '.join(dict.fromkeys(map(_rollouts, evaluations)))} a task, {ways}, evaluation "
        f"seed{'s' * (len(chance) > 1)} {', '.join(map(str, chance))}, no weight update, memory kept "
        "across episodes."
    )


def _split_in_words(env: EnvConfig) -> str:
    split = split_tasks(env)
    return (
        f"{env.in_words()}: {len(split.train)} training, {len(split.validation)} validation and "
        f"{len(split.heldout)} held-out tasks"
    )


def _where(evaluations: Sequence[EvaluationConfig]) -> str:
    tasks = {evaluation.tasks for evaluation in evaluations}
    if "validation" not in tasks:
        return ""
    held_out = "" if len(tasks) == 1 else " in the held-out tasks or, of some models,"
    return f"{held_out} in the validation tasks, to choose settings"


def _rollouts(evaluation: EvaluationConfig) -> str:
    return f"{evaluation.n_rollouts} roll-outs of {evaluation.n_episodes} episodes"
