"""Jobs on their way to a Slurm that loses answers, on one cluster or several, and a user's Ctrl-C."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cad.cli.cluster import _again
from cad.cluster import command, sending, squeue
from cad.cluster.jobs import cancel
from cad.cluster.profile import Profile
from cad.cluster.retry import last_submission
from cad.cluster.sending import Sending, adopt_lost, send
from cad.cluster.status import stage_statuses
from cad.cluster.submit import Plan, Submission, submit
from cad.config import from_mapping
from cad.errors import CadError, UsageError
from cad.experiments.plan.directory import StageDirectory
from cad.experiments.plan.experiment import Experiment, open_experiment
from cad.experiments.plan.job_records import JobNote, SubmissionRecord, write_submission
from cad.locks import folder_lock

STAGES = ("train-000000000001", "train-000000000002")
# A Slurm of several clusters: each has a file of jobs (number, script) of its own, "here" is this machine's.
SLURM = """\
#!/bin/bash
program=$(basename "$0") folder=$(dirname "$0")
echo "$program ${SLURM_CLUSTERS-unset} $*" >>"$folder/calls"
named=${SLURM_CLUSTERS-} rest=()
for word in "$@"; do
    case $word in --clusters=*) named=${word#*=} ;; *) rest+=("$word") ;; esac
done
IFS=, read -r -a clusters <<<"${named:-here}"
case $program in
sbatch)
    . "$folder/before"
    cluster=${clusters[-1]}
    number=$(($(wc -l 2>/dev/null <"$folder/jobs-$cluster" || echo 0) + 7))
    echo "$number ${rest[-1]}" >>"$folder/jobs-$cluster"
    . "$folder/after"
    echo "$number${named:+;$cluster}"
    ;;
squeue)
    for cluster in "${clusters[@]}"; do
        [ -z "$named" ] || echo "CLUSTER: $cluster"
        echo "cad|HEADING"
        [ -e "$folder/jobs-$cluster" ] || continue
        while read -r number script; do
            case "$*" in
            *--states=all*) echo "cad|$number|$script|" ;;
            *)
                name=$(basename "$script" .sh)
                for task in "" _0 _1; do echo "cad|$number$task|RUNNING|$cluster|None|cad-e-${name#*-}"; done
                ;;
            esac
        done <"$folder/jobs-$cluster"
    done
    ;;
scancel) for job in "${rest[@]}"; do sed -i "/^${job%_*} /d" "$folder/jobs-${clusters[0]}"; done ;;
scontrol) echo slurm-wlm 22.05.8; echo "ClusterName = ${clusters[0]}" ;;
esac
"""


class Slurm:
    """The programs, in a folder that comes first on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("sbatch", "squeue", "scancel", "scontrol"):
            (folder / name).write_text(SLURM)
            (folder / name).chmod(0o755)
        self.happens()

    def happens(self, before: str = "", after: str = "") -> None:
        """What sbatch does before and after it has taken a job."""
        (self.folder / "before").write_text(before)
        (self.folder / "after").write_text(after)

    def jobs(self, cluster: str = "here") -> list[str]:
        file = self.folder / f"jobs-{cluster}"
        return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []

    def calls(self, program: str) -> list[str]:
        lines = (self.folder / "calls").read_text().splitlines()
        return [line.partition(" ")[2] for line in lines if line.startswith(f"{program} ")]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_CLUSTERS", raising=False)
    monkeypatch.setattr(command, "_PAUSES", (0.0, 0.0))
    squeue.speaks_json.cache_clear()
    yield Slurm(tmp_path / "bin")
    squeue.speaks_json.cache_clear()


@pytest.fixture
def root(tmp_path) -> Path:
    for name in STAGES:
        (tmp_path / "runs/stages" / name).mkdir(parents=True)
    (tmp_path / "runs/e/jobs/1-slurm").mkdir(parents=True)
    return tmp_path / "runs"


@pytest.fixture
def array(root) -> Sending:
    note = JobNote("", "cad-e-train", "e", getpass.getuser(), "e/jobs/1-slurm", time.time(), 1.0, 1.0, (), "")
    script = root / "e/jobs/1-slurm/1-train.sh"
    script.touch()
    return Sending(script, "cad-1-slurm-1-train", "train", tuple((stage,) for stage in STAGES), note)


def noted(root: Path) -> list[tuple[str, str | None]]:
    notes = [StageDirectory(root, stage).job() for stage in STAGES]
    return [(note.job_id, note.cluster) for note in notes if note is not None]


def states(root: Path) -> list[tuple[str, str]]:
    return [(one.state, one.node) for one in stage_statuses(root, list(STAGES)).values()]


@pytest.mark.usefixtures("slurm")
def test_an_array_that_is_taken(root, array):
    assert send(array, root) == ("7", "")
    assert noted(root) == [("7_0", ""), ("7_1", "")] and not array.file.exists()
    assert states(root) == [("running", "here")] * 2


PRESSED = f"kill -INT {os.getpid()}; sleep 0.2"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_ctrl_c_while_sbatch_runs(slurm, root, array, monkeypatch, caplog, moment):
    monkeypatch.setattr(sending.time, "sleep", lambda _seconds: None)
    slurm.happens(**{moment: f"{PRESSED}; sleep 60"})
    with pytest.raises(KeyboardInterrupt):
        send(array, root)
    if moment == "before":
        assert "if Slurm has the train jobs after all" in caplog.text and array.file.exists()
        assert noted(root) == [] == slurm.jobs()
        # It was on its way all the same.
        (slurm.folder / "jobs-here").write_text(f"12 {array.script}\n")
        adopt_lost(root)
        assert noted(root) == [("12_0", ""), ("12_1", "")]
    else:
        assert "it is kept" in caplog.text and noted(root) == [("7_0", ""), ("7_1", "")]
    assert not array.file.exists()


def test_ctrl_c_while_the_controller_is_away_is_still_ctrl_c(slurm, root, array, monkeypatch):
    monkeypatch.setattr(sending.time, "sleep", lambda _seconds: None)
    slurm.happens(before=f"{PRESSED}; sleep 60")
    (slurm.folder / "squeue").write_text("#!/bin/sh\necho Unable to contact slurm controller >&2; exit 1\n")
    with pytest.raises(KeyboardInterrupt):
        send(array, root)
    assert array.file.exists()


def test_ctrl_c_between_the_answer_and_the_notes(slurm, root, array, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(sending, "_note", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            send(array, root)
            time.sleep(1)
    assert noted(root) == []
    adopt_lost(root)
    assert noted(root) == [("7_0", ""), ("7_1", "")] and slurm.jobs() == ["7"]


@pytest.fixture
def experiment(root) -> Experiment:
    """An experiment of one cell."""
    file = root / "e.yaml"
    file.write_text("name: e\nbase: {env: {size: 4}}\narms: [{name: AD, set: {model.kind: ad}}]\n")
    return open_experiment(file, [], root)


def test_cancel_waits_for_a_submission_and_ends_its_jobs_too(slurm, root, experiment, array, caplog):
    histories, train, _ = (stage.name for stage in experiment.cells[0].stages)
    begun = threading.Event()

    def send_late() -> None:
        with folder_lock(root / "stages", "the folder of stages"):
            begun.set()
            time.sleep(0.5)
            send(replace(array, tasks=((histories,), (train,))), root)

    submitting = threading.Thread(target=send_late)
    submitting.start()
    begun.wait()
    assert cancel(experiment, []) == (["7_0", "7_1"], [])
    submitting.join()
    assert "waiting for process" in caplog.text and slurm.jobs() == []


def test_a_retry_takes_the_profile_whose_jobs_slurm_took(root, experiment, array):
    """A submission that Slurm refused leaves its record, too."""
    with pytest.raises(CadError, match="never submitted"):
        last_submission(experiment)
    for number, (minutes, clusters) in enumerate(((7, "far"), (9, None))):
        profile = {"resources": {"minutes": minutes}}
        record = SubmissionRecord("e.yaml", (), "cad", profile, "0", False, "me", None, clusters)
        write_submission(root / f"e/jobs/{number}-slurm", record)
    train = StageDirectory(root, experiment.cells[0].training.name)
    train.path.mkdir()
    assert last_submission(experiment)[0].resources.minutes == 9
    train.note_job(replace(array.note, job_id="7", folder="e/jobs/0-slurm"))
    profile, clusters = last_submission(experiment)
    assert (profile.resources.minutes, clusters) == (7, "far")


KINDS = ["histories", "train", "evaluate"]


def kinds(submission: Submission) -> list[str]:
    return [one.array.kind for one in submission.arrays]


def test_two_submissions_at_once_submit_once(slurm, experiment):
    slurm.happens(before="sleep 0.3")
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(submit, experiment, Profile()) for _ in range(2)]
        done = sorted((kinds(one.result()) for one in both), key=len)
    assert done == [[], KINDS] and len(slurm.calls("sbatch")) == 3


@pytest.mark.usefixtures("slurm")
def test_the_estimate_and_the_question_hold_no_lock(root, experiment):
    def approve(_plan: Plan) -> None:
        with folder_lock(root / "stages", "the folder of stages"):
            pass

    assert kinds(submit(experiment, Profile(), approve=approve)) == KINDS


@pytest.mark.parametrize("error", [KeyboardInterrupt, CadError])
def test_a_submission_that_ends_early_says_what_stays(slurm, experiment, monkeypatch, caplog, error):
    ends = PRESSED if error is KeyboardInterrupt else "exit 1"
    monkeypatch.setattr(sending.time, "sleep", lambda _seconds: None)
    slurm.happens(before=f'[ ! -e "$folder/jobs-here" ] || {{ {ends}; exit 1; }}')
    with pytest.raises(error):
        submit(experiment, Profile())
    assert "histories (job 7) stay submitted" in caplog.text
    slurm.happens()
    again = submit(experiment, Profile())
    assert kinds(again) == KINDS[1:] and len(again.plan.joined) == 1


def test_a_submission_to_another_cluster(slurm, root, experiment, monkeypatch):
    monkeypatch.setenv("SLURM_CLUSTERS", "far")
    submit(experiment, Profile())
    assert slurm.jobs("far") == ["7", "8", "9"]
    monkeypatch.delenv("SLURM_CLUSTERS")
    assert kinds(submit(experiment, Profile())) == []
    # Another seed would wait for the histories, which no job of this cluster can.
    more = open_experiment(experiment.file, ["seeds=[1]"], root)
    with pytest.raises(CadError, match=r"histories-.* on cluster far, and no job of this machine's cluster"):
        submit(more, Profile())
    # By the profile, and of several that which has them; a retry goes there by itself.
    resources = {"sbatch": {"clusters": "near,far"}}
    assert kinds(submit(more, from_mapping(Profile, {"resources": resources}, "profile"))) == KINDS[1:]
    assert slurm.jobs("far") == ["7", "8", "9", "10", "11"] and slurm.jobs() == []
    profile, clusters = last_submission(experiment)
    cancel(experiment, [])
    assert slurm.jobs("far") == ["10", "11"]
    assert kinds(submit(experiment, profile, clusters=clusters)) == KINDS and slurm.jobs() == []


@pytest.mark.parametrize("asked", ["here", "here,far"])
def test_a_profile_may_name_this_machine_s_cluster(slurm, experiment, asked):
    slurm.happens(before="clusters=(here)")
    profile = from_mapping(Profile, {"resources": {"sbatch": {"clusters": asked}}}, "profile")
    assert kinds(submit(experiment, profile)) == KINDS
    assert kinds(submit(experiment, Profile())) == []


def test_all_stages_go_to_one_cluster():
    with pytest.raises(UsageError, match=r"sbatch\.clusters: no job can wait"):
        from_mapping(Profile, {"stages": {"train": {"sbatch": {"clusters": "far"}}}}, "profile")


def test_what_is_printed_to_come_next_can_be_pasted(tmp_path):
    words = shlex.split(_again(tmp_path / "my runs.yaml", ["seeds=[0, 1]"], tmp_path / "x y"))
    assert words == [f"{tmp_path}/my runs.yaml", "seeds=[0, 1]", "--root", f"{tmp_path}/x y"]


@pytest.mark.parametrize("asked", ["far", "near,far"])
def test_a_job_is_found_on_its_cluster_without_the_variable(slurm, root, array, monkeypatch, asked):
    (slurm.folder / "jobs-here").write_text("7 /another/script.sh\n")
    array = replace(array, note=replace(array.note, cluster=asked))
    assert send(array, root) == ("7", "far")
    assert noted(root) == [("7_0", "far"), ("7_1", "far")]
    # Neither the home cluster's job 7, nor that of a cluster that is asked for in the meantime.
    for other in (None, "near"):
        if other:
            monkeypatch.setenv("SLURM_CLUSTERS", other)
        assert states(root) == [("running", "far")] * 2


@pytest.mark.usefixtures("slurm")
def test_a_job_of_this_cluster_is_found_with_the_variable(root, array, monkeypatch):
    send(array, root)
    monkeypatch.setenv("SLURM_CLUSTERS", "far")
    assert states(root) == [("running", "here")] * 2


def test_a_note_of_an_earlier_version_is_looked_for_where_the_variable_says(slurm, root, array, monkeypatch):
    send(array, root)
    for stage in STAGES:
        file = root / "stages" / stage / "job.json"
        note = json.loads(file.read_text())
        del note["cluster"]
        file.write_text(json.dumps(note))
    (slurm.folder / "jobs-far").write_text("7 /x/1-train.sh\n")
    monkeypatch.setenv("SLURM_CLUSTERS", "far")
    assert states(root) == [("running", "far")] * 2


def test_answers_lost_on_one_of_several_clusters(slurm, root, array):
    """The second try is taken too: the first is kept, on its cluster."""
    array = replace(array, note=replace(array.note, cluster="near,far"))
    slurm.happens(after='echo "Socket timed out on send/recv operation" >&2; exit 1')
    assert send(array, root) == ("7", "far")
    assert slurm.jobs("far") == ["7"] and len(slurm.calls("sbatch")) == 1


@pytest.mark.parametrize("age", [0, 3600])
@pytest.mark.parametrize("there", [False, True])
def test_what_was_written_down_and_cannot_be_read(slurm, root, array, caplog, age, there):
    array.file.write_text("{")
    os.utime(array.file, (time.time() - age, time.time() - age))
    if there:
        (slurm.folder / "jobs-here").write_text(f"12 {array.script}\n")
    adopt_lost(root)
    assert ("scancel 12" in caplog.text) == there
    assert array.file.exists() == (there or not age)


def test_what_a_version_without_packs_wrote_down(slurm, root, array):
    written = {
        "script": str(array.script), "comment": array.comment, "kind": "train", "stages": list(STAGES),
        "note": {
            "job_id": "", "name": "cad-e-train", "experiment": "e", "user": getpass.getuser(),
            "folder": "e/jobs/1-slurm", "submitted": time.time(), "minutes": 1.0, "memory": 1.0,
        },
    }  # fmt: skip
    array.file.write_text(json.dumps(written))
    (slurm.folder / "jobs-here").write_text(f"12 {array.script}\n")
    adopt_lost(root)
    assert noted(root) == [("12_0", None), ("12_1", None)]
