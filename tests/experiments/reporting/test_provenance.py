"""What a report says of its origin: stages, code, machines, checksums, commands."""

from __future__ import annotations

import hashlib
import json
import subprocess

import pytest
import yaml

import cad
from cad.config import load
from cad.experiments.plan.cells import Cell
from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.experiment import open_experiment
from cad.experiments.plan.job_records import JobNote, SubmissionRecord, write_submission
from cad.experiments.reporting.environment_info import code_version, in_commit, machine
from cad.experiments.reporting.provenance import gather_provenance, protocol
from cad.experiments.run.attempt import StageAttempt
from cad.schema import Config
from cad.storage import write_json


def job_note(job_id: str, folder: str) -> JobNote:
    return JobNote(job_id, "cad-small-train", "small", "me", folder, 0.0, 1.0, 1.0)


def test_stages_say_what_made_them(small, finished):
    record = gather_provenance(open_experiment(small, [], finished))
    version, dirty = code_version()
    assert [stage.kind for stage in record.stages].count("train") == 3 and len(record.stages) == 7
    for stage in record.stages:
        assert (stage.state, stage.attempts, stage.cores) in {("done", 1, 1), ("done", 1, 2)}
        assert stage.wall_seconds > 0
        assert (stage.code_version, stage.dirty) == (version, dirty)
        assert stage.packages == record.packages and "torch" in stage.packages and "python" in stage.packages
        assert stage.hardware == record.hardware
        assert stage.job_id is None and stage.image is None
    histories = next((finished / "stages").glob("histories-*/histories.h5"))
    expected = {
        f"{histories.parent.name}/histories.h5": histories,
        str(small): small,
    }
    assert record.inputs == {
        name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in expected.items()
    }
    assert record.commands[-2:] == [f"cad run {small}", f"cad report {small}"]
    # The experiment file is one of the tests', and in no commit.
    commit = version.partition("+")[2]
    assert not commit or record.commands[0] == (
        f"git checkout {commit}  # the code alone: {small} is not in this commit, or differs there"
    )


def test_the_public_learns_no_machine(cad, small, copy):
    for folder in (copy / "stages").glob("train-*"):
        StageDirectory(copy, folder.name).note_job(job_note("471108154711_0", "small/jobs/x"))
    done = cad("report", small, "--root", copy, "--public", "--no-figures")
    assert done.returncode == 0, done.stderr
    made = [
        copy / "small/report" / name for name in ("report.html", "report.md", "report.json", "csv/stages.csv")
    ]
    text = "".join(path.read_text() for path in made)
    actual = machine()
    assert f"{actual['architecture']}, {actual['cores']} cores" in text
    for secret in (actual["processor"], "471108154711", str(small.parent), str(copy)):
        assert not secret or secret not in text, secret
    assert "471108154711_0" in str(gather_provenance(open_experiment(small, [], copy)))


def test_a_submission_says_what_its_frozen_code_cannot(small, copy):
    train = next((copy / "stages").glob("train-*"))
    facts = StageDirectory(copy, train.name).record()
    facts["made_by"]["code_version"] = "0.1.0"
    StageDirectory(copy, train.name).finish(facts)
    StageDirectory(copy, train.name).note_job(job_note("12_3", "small/jobs/a-slurm"))
    submission = SubmissionRecord("small.yaml", (), "cad submit", {}, "0.1.0+abc", True, "me", "f" * 64)
    write_submission(copy / "small/jobs/a-slurm", submission)
    record = gather_provenance(open_experiment(small, [], copy))
    stage = next(stage for stage in record.stages if stage.name == train.name)
    assert (stage.code_version, stage.dirty, stage.image, stage.job_id) == (
        "0.1.0+abc",
        True,
        "f" * 64,
        "12_3",
    )


def test_stages_of_before_this_was_recorded(small, copy):
    for marker in (copy / "stages").glob("*/DONE"):
        made = json.loads(marker.read_text())["made_by"] | {"code_version": "0.1.0+fedcba"}
        write_json(marker, {"made_by": made})
    assert (
        gather_provenance(open_experiment(small, [], copy)).commands[0].startswith("git checkout fedcba  #")
    )
    for marker in (copy / "stages").glob("*/DONE"):
        write_json(
            marker, {"wall_seconds": 5.0, "train_seconds": 4.0, "parameters": 10, "steps_per_second": 1.0}
        )
    for stage in gather_provenance(open_experiment(small, [], copy)).stages:
        assert (stage.state, stage.wall_seconds, stage.core_hours, stage.code_version) == (
            "done",
            5.0,
            None,
            None,
        )


def test_a_copy_in_somebody_elses_repository_has_no_commit(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    (tmp_path / "frozen").mkdir()
    (tmp_path / "frozen" / "__init__.py").write_text("")
    monkeypatch.setattr(cad, "__file__", str(tmp_path / "frozen" / "__init__.py"))
    assert code_version() == (cad.__version__, False)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "ours"], check=True)
    assert code_version()[0].startswith(f"{cad.__version__}+") and code_version()[1] is False
    (tmp_path / "frozen" / "new.py").write_text("")
    assert code_version()[1] is True


def test_time_of_killed_attempts_counts(tmp_path, monkeypatch):
    stage = Cell("", "", load(Config, [], []).value).histories
    clock = iter([100.0, 130.0, 500.0, 507.0])
    monkeypatch.setattr("time.time", lambda: next(clock))
    first = StageAttempt(tmp_path, stage)
    first.claim()
    assert (first.number, first.seconds_before) == (1, 0.0)
    first.report(1, 10)
    first.report(4, 10)  # and killed
    second = StageAttempt(tmp_path, stage)
    second.claim()
    assert (second.number, second.seconds_before) == (2, 30.0)
    second.report(4, 10)
    second.report(5, 10)
    third = StageAttempt(tmp_path, stage)
    third.claim()
    assert (third.number, third.seconds_before) == (3, pytest.approx(37.0))


def test_an_external_encoder_is_an_input(small, tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    settings = yaml.safe_load(small.read_text())
    arm = {"model.kind": "compressed_ad", "train.pretrained_encoder_path": str(weights)}
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump(settings | {"arms": [{"name": "loaded", "set": arm}]}))
    experiment = open_experiment(file, [], tmp_path / "runs")
    inputs = gather_provenance(experiment).inputs
    assert inputs[str(weights)] == hashlib.sha256(b"weights").hexdigest()
    assert set(gather_provenance(experiment, public=True).inputs) == {weights.name, file.name}


def test_the_protocol_names_every_split():
    configs = [Config().with_overrides({"env.split_seed": seed}, "test") for seed in (0, 3, 3)]
    assert "8 held-out tasks (split seeds 0, 3)." in protocol(configs)
    assert "(split seed 3)" in protocol(configs[1:])
    chosen = [Config().with_overrides({"evaluation.tasks": "validation"}, "test")]
    assert "in the validation tasks" in protocol(chosen) and "in the validation tasks" not in protocol(
        configs
    )


def test_the_protocol_names_what_any_cell_has():
    """Not what the first one has."""
    cued = {"env": {"name": "cued_darkroom", "n_cues": 4, "n_tasks": 40, "n_heldout": 8}}
    other = {
        **cued, "source": {"kind": "learner"}, "evaluation.n_episodes": 70, "evaluation.n_rollouts": 3,
        "evaluation.seed": 7, "evaluation.env": {"horizon": 40},
    }  # fmt: skip
    first, second = Config(), Config().with_overrides(other, "test")
    text = protocol([first, second])
    for words in (
        f"{first.env.total_heldout} held-out tasks or ",
        "4 cues: 28 training, 4 validation and 8 held-out tasks",
        f"{first.source.METHOD} or {second.source.METHOD}.",
        "50 episodes or 3 roll-outs of 70 episodes",
        "in environments of horizon 40",
        "evaluation seeds 7, 1000",
    ):
        assert words in text, words


def test_the_protocol_of_both_kinds_of_tasks_and_of_a_state():
    held_out = Config()
    chosen = held_out.with_overrides({"evaluation.tasks": "validation"}, "test")
    for configs in ([held_out, chosen], [chosen, held_out]):
        words = "in the held-out tasks or, of some models, in the validation tasks, to choose settings"
        assert f"Evaluation {words}: " in protocol(configs)
    knocked = {"model": {"kind": "gru"}, "evaluation.knock_out": "other", "evaluation.n_episodes": 40}
    recurrent = held_out.with_overrides(knocked, "test")
    assert ", state replaced by that of a roll-out in another task before episode 26" in protocol([recurrent])


def test_the_protocol_names_every_way_of_acting():
    annealed = {"evaluation.first_temperature": 1.2, "evaluation.temperature": 0.7}
    ways: list[dict[str, object]] = [{}, annealed, {"evaluation.greedy": True}]
    configs = [Config().with_overrides(way, "test") for way in ways]
    assert "a task, actions sampled at temperature 1, evaluation seed" in protocol(configs[:1])
    assert "a task, the most likely action, evaluation seed" in protocol(configs[2:])
    assert (
        "a task, actions sampled at temperature 0.7, annealed from 1.2 over 50 episodes or "
        "actions sampled at temperature 1 or the most likely action, evaluation seed"
    ) in protocol([*configs, *configs])
    for shown, words in ((1, "the first episode demonstrated"), (3, "the first 3 episodes demonstrated")):
        config = Config().with_overrides({"evaluation.demonstrated_episodes": shown}, "test")
        assert f"{words} (optimal actions, which the model watches), evaluation" in protocol([config])


def test_a_checkout_gives_the_experiment_file_or_says_that_it_does_not(tmp_path, monkeypatch):
    """In a repository of its own: as committed, changed, new, and outside."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path / "repo"), *words],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    package = tmp_path / "repo" / "cad"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    file = tmp_path / "repo" / "e.yaml"
    file.write_text("name: e\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    commit = git("rev-parse", "--short=12", "HEAD")
    monkeypatch.setattr(cad, "__file__", str(package / "__init__.py"))
    assert in_commit(file, commit)
    assert not in_commit(file, "0123456789ab")
    file.write_text("name: other\n")
    new, outside = tmp_path / "repo" / "new.yaml", tmp_path / "e.yaml"
    for path in (new, outside):
        path.write_text("name: e\n")
    assert [in_commit(path, commit) for path in (file, new, outside, tmp_path / "none")] == [False] * 4
