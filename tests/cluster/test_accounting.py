"""On a cluster with accounting: how jobs ended, limits on jobs, several users in one tree, odd names."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from workers import STATUS_SECONDS

from cad.cluster.arrays import ResourceMultiplier
from cad.cluster.profile import Profile
from cad.cluster.script import SubmissionPaths, job_script
from cad.config import from_mapping

# Every command is a process of its own, which takes its time on a busy machine.
pytestmark = pytest.mark.timeout(900)

# Two users of Debian's with one group, whom nothing belongs to.
NAMES = ("nobody", "sync")
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def time_passes(limited):
    """The jobs that meet their time limits wait for them beside these tests."""


@dataclass
class User:
    """A user of the cluster who is not root, and the command line as they call it."""

    name: str
    cluster: object
    home: Path
    python: str

    def call(self, *words, umask="002", check=True):
        user = pwd.getpwnam(self.name)
        environment = {
            **os.environ,
            **self.cluster.environment,
            "USER": self.name, "LOGNAME": self.name, "HOME": str(self.home), "TMPDIR": str(self.home),
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *site.getsitepackages()]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        done = subprocess.run(
            [str(word) for word in words], capture_output=True, text=True, timeout=240, check=False,
            env=environment, cwd=self.home, user=user.pw_uid, group=user.pw_gid, extra_groups=[],
            umask=int(umask, 8),
        )  # fmt: skip
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done

    def cad(self, *words, **how):
        return self.call(self.python, "-m", "cad.cli", *words, **how)

    def submit(self, file, root, profile, *words, **how):
        return self.cad("submit", file, "--root", root, "--profile", profile, *words, **how)


def python_for(name: str) -> str | None:
    """A Python of this version that the user can start, with what is installed here."""
    user = pwd.getpwnam(name)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, *filter(None, [shutil.which(version, path="/usr/bin:/usr/local/bin")])):
        try:
            done = subprocess.run(
                [python, "-c", "import torch, cad"], check=False, cwd="/", capture_output=True,
                env={"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *site.getsitepackages()])},
                user=user.pw_uid, group=user.pw_gid, extra_groups=[],
            )  # fmt: skip
        except PermissionError:
            continue
        if done.returncode == 0:
            return python
    return None


@pytest.fixture(scope="module")
def common() -> Iterator[Path]:
    """A folder where both users may write, outside of pytest's, which is root's alone."""
    folder = Path(tempfile.mkdtemp(prefix="cad-common-", dir="/tmp"))
    os.chown(folder, 0, pwd.getpwnam(NAMES[0]).pw_gid)
    folder.chmod(0o2775)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def users(accounted, common) -> tuple[User, User]:
    """Both of them, with accounts on the cluster."""
    python = python_for(NAMES[0])
    if python is None:
        pytest.skip(
            "needs a Python, an environment and a checkout that other users can read: move them out of /root"
        )
    actual = []
    for name in NAMES:
        accounted.call("sacctmgr", "-i", "-Q", "add", "user", name, "account=root")
        home = common / f"home-{name}"
        home.mkdir()
        os.chown(home, pwd.getpwnam(name).pw_uid, -1)
        actual.append(User(name, accounted, home, python))
    return actual[0], actual[1]


@pytest.fixture
def make(grid, common):
    """``make(name, seeds, settings)``: the experiment file of a quick grid, and a profile that holds it."""

    def write(name, seeds, **train):
        settings = yaml.safe_load(grid.read_text()) | {"name": name, "seeds": seeds}
        settings["arms"] = [{"name": "AD", "set": {"model.kind": "ad"}}]
        settings["base"]["train"] |= {"n_updates": 50, **train}
        file, held = common / f"{name}.yaml", common / "held.yaml"
        file.write_text(yaml.safe_dump(settings))
        held.write_text("resources: {minutes: 5, memory_gb: 1, sbatch: {hold: true}}\nsignal_seconds: 30\n")
        return file, held

    return write


def jobs_of(cluster, user):
    return cluster.call("squeue", "-h", "--array", "-u", user, "-o", "%i").stdout.split()


def warned(cluster, limit):
    """Whether the controller knows of a limit of nobody's."""
    return lambda: (
        f"MaxSubmitJobs={limit}(" in cluster.call("scontrol", "show", "assoc_mgr", "users=nobody").stdout
    )


def test_more_jobs_than_are_allowed_are_left_for_later(accounted, users, make, common, wait_for):
    user, root = users[0], common / "crowded"
    file, held = make("crowded", [0, 1, 2])
    set_limit = ("sacctmgr", "-i", "-Q", "modify", "user", user.name, "set")
    accounted.call(*set_limit, "MaxSubmitJobs=4")
    wait_for(warned(accounted, 4), 60)
    planned = user.submit(file, root, held, "--dry-run").stdout
    first = user.submit(file, root, held).stdout
    for said in (planned, first):
        assert "not submitted: 3 stages" in said
    assert len(jobs_of(accounted, user.name)) == 4
    # What the dry run listed is what was submitted, task by task; so are its estimate and its cells.
    (arrays,) = (root / "crowded/jobs").glob("*-slurm/arrays.json")
    submitted = [stage for array in json.loads(arrays.read_text()) for stage in array["stages"]]
    assert re.findall(r"task \d+: (\S+)", planned) == submitted
    assert re.findall("estimate: .*core-hours", planned) and re.findall("estimate: .*core-hours", first)
    resolved = [root / "crowded" / name for name in ("experiment.json", "jobs/dry-run/experiment.json")]
    assert resolved[0].read_text() == resolved[1].read_text()

    full = user.submit(file, root, held, check=False)
    assert full.returncode == 1 and "MaxSubmitJobs" in full.stderr
    accounted.call(*set_limit, "MaxSubmitJobs=7")
    wait_for(warned(accounted, 7), 60)
    rest = user.submit(file, root, held).stdout
    assert "joined: 4 stages" in rest and "not submitted" not in rest
    assert len(jobs_of(accounted, user.name)) == 7
    user.cad("cancel", file, "--root", root)
    accounted.call(*set_limit, "MaxSubmitJobs=-1")


def test_dear_submissions_are_refused_without_a_terminal(users, accounted, make, common):
    user, root = users[0], common / "dear"
    file, held = make("dear", [0])
    refused = user.submit(file, root, held, "--max-hours", "1e-9", check=False)
    assert refused.returncode == 1 and "above --max-hours" in refused.stderr
    assert "estimate: " in refused.stdout and "core-hours" in refused.stdout
    assert jobs_of(accounted, user.name) == []
    assert "submitted train" in user.submit(file, root, held, "--max-hours", "1000").stdout
    assert "cancelled 3 jobs" in user.cad("cancel", file, "--root", root, "1").stdout


def test_two_users_share_histories_and_nothing_else(accounted, users, make, common, wait_for):
    one, two = users
    root = common / "runs"
    mine, held = make("mine", [0])
    theirs, _ = make("theirs", [1])
    assert "submitted histories" in one.submit(mine, root, held).stdout
    profile = common / "profile.yaml"
    profile.write_text("resources: {minutes: 5, memory_gb: 1}\nsignal_seconds: 30\n")
    assert "joined: 1 stages" in two.submit(theirs, root, profile).stdout
    # The second user's training waits for the first one's histories, and may not cancel them.
    assert "left alone" in two.cad("cancel", theirs, "--root", root).stdout
    assert len(jobs_of(accounted, one.name)) == 3
    wait_for(lambda: jobs_of(accounted, two.name) == [], 60)
    assert "joined: 1 stages" in two.submit(theirs, root, profile).stdout
    for job in {job.partition("_")[0] for job in jobs_of(accounted, one.name)}:
        accounted.call("scontrol", "release", job)

    def finished(user, file):
        actual = json.loads(user.cad("status", file, "--root", root, "--json", check=False).stdout)
        return all(stage["state"] == "done" for cell in actual for stage in cell["stages"])

    wait_for(lambda: finished(one, mine) and finished(two, theirs), 600, every=STATUS_SECONDS)
    # Time and CPUs are Slurm's, memory the stages' own notes or Slurm's.
    said = one.cad("status", mine, "--root", root, "--usage").stdout
    assert re.search(r"train +\d+ .* GiB .*%.*memory_gb: .*, minutes: 1", said), said
    for user, file, name in ((one, mine, "mine"), (two, theirs, "theirs")):
        user.cad("report", file, "--root", root)
        assert {path.owner() for path in (root / name).rglob("*")} == {user.name}
        (cell,) = json.loads((root / name / "experiment.json").read_text())["cells"]
        owners = {
            path.owner() for stage in cell["stages"][1:] for path in (root / "stages" / stage).rglob("*")
        }
        assert owners == {user.name}
    made = [path for path in root.rglob("*") if not path.is_symlink()]
    assert not [path for path in made if path.stat().st_mode & 0o002]  # nothing that all may write
    assert not [path for path in made if not path.stat().st_mode & 0o020]  # as umask 002 says


def test_a_tree_that_is_not_shared_is_refused_to_others(users, make, common):
    one, two = users
    file, held = make("own", [0])
    root = common / "own"
    one.submit(file, root, held, umask="022")
    assert not [path for path in (root, *root.rglob("*")) if path.stat().st_mode & 0o022]
    refused = two.submit(file, root, held, check=False)
    assert refused.returncode == 1 and "no permission to write there" in refused.stderr, refused.stderr
    one.cad("cancel", file, "--root", root, umask="022")


def test_memory_that_ran_out_is_told_with_accounting_too(accounted, make, with_histories, wait_for, tmp_path):
    file, _ = make("narrow", [0])
    root = with_histories(tmp_path / "runs")
    profile = tmp_path / "narrow.yaml"
    profile.write_text("resources: {minutes: 5, memory_gb: 0.05}\nsignal_seconds: 30\n")
    accounted.cad("submit", file, "--profile", profile, "--root", root)

    def train():
        (stage,) = accounted.stages(file, root, "train").values()
        return stage

    wait_for(lambda: train()["state"] == "dead", 300, every=STATUS_SECONDS)
    # Without control groups the accounting only knows that it failed; the job script knows why.
    assert train()["reason"] == "out of memory"


# Backslashes are for the shell alone: sbatch drops them, and profiles refuse them where it would.
# What a worker does here: say how it was called.
WORKER = """\
#!/bin/bash
printf '%s\\n' "$GREETING" "$TRITON_CACHE_DIR" "$PWD" >"$(dirname "$0")/said $SLURM_PROCID"
touch "$(dirname "$0")/${SLURM_JOB_ID}_0_result.pkl"
"""
ODD = "a b;touch pwned&(touch pwned)|*?#~[x]{y}!<z>"


def test_names_that_a_shell_would_act_on(accounted, wait_for, tmp_path):
    folder = tmp_path / ODD
    folder.mkdir()
    worker = folder / "worker"
    worker.write_text(WORKER)
    worker.chmod(0o755)
    greeting = "'; touch pwned; '$(touch pwned)`touch pwned`\""
    settings = {
        "resources": {"minutes": 5, "memory_gb": 0.1, "sbatch": {"comment": greeting, "chdir": str(folder)}},
        "stages": {"train": {"nodes": 2}},
        "environment": {"GREETING": greeting + "\\"},
        "scratch": str(folder / "scratch; touch pwned"),
    }
    (folder / "scratch; touch pwned").mkdir()
    profile = from_mapping(Profile, settings, "profile")
    text = job_script(
        profile, "train", "odd", SubmissionPaths(folder, folder, str(worker)), ResourceMultiplier(), None, 1
    )
    (tmp_path / "job.sh").write_text(text)
    job = accounted.call("sbatch", "--parsable", tmp_path / "job.sh").stdout.strip()
    wait_for(lambda: not accounted.call("squeue", "-h", "-j", job, check=False).stdout, 120)
    (attempts,) = folder.glob("*.attempts")
    assert [line.split()[2] for line in attempts.read_text().splitlines()] == ["started", "done"]
    # Two nodes, a rank each.
    for rank in (0, 1):
        said = (folder / f"said {rank}").read_text().splitlines()
        assert said[0] == greeting + "\\" and said[2] == str(folder)
        assert said[1].startswith(str(folder / "scratch; touch pwned")) and said[1].endswith("/triton")
    assert f"Comment={greeting}" in accounted.call("scontrol", "show", "job", job).stdout
    assert not list(tmp_path.rglob("pwned")) and not Path("pwned").exists()
