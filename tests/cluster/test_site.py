"""What a site sets around cad, and what its Slurm answers: variables, wrappers, modules, lost answers."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cad.cluster.arrays import ResourceMultiplier
from cad.cluster.profile import Profile
from cad.cluster.queue import LAUNCH_FAILED, queued_jobs
from cad.cluster.script import SubmissionPaths, job_script
from cad.config import from_mapping

KINDS = ("histories", "train", "evaluate")
# The last word is the folder where submitit's worker leaves its result.
WORKER = """\
#!/bin/bash
echo "executor $SUBMITIT_EXECUTOR cache $TRITON_CACHE_DIR"
touch "${@: -1}/${SLURM_JOB_ID}_0_result.pkl"
"""
HOSTILE = {
    "SBATCH_PARTITION": "urgent", "SBATCH_TIMELIMIT": "1", "SBATCH_NO_REQUEUE": "1",
    "SBATCH_JOB_NAME": "work", "SBATCH_EXPORT": "NONE", "SQUEUE_STATES": "SUSPENDED", "SQUEUE_FORMAT": "%i",
    "SCANCEL_STATE": "SUSPENDED",
    "SLURM_JOB_ID": "1", "SLURM_MEM_PER_CPU": "7", "SLURM_CPU_BIND": "mask_cpu:0xff", "SLURM_NTASKS": "9",
}  # fmt: skip


@pytest.fixture(scope="module")
def held(tmp_path_factory) -> Path:
    """A profile whose jobs never start: only what is said to Slurm is looked at."""
    file = tmp_path_factory.mktemp("held") / "profile.yaml"
    file.write_text("resources: {partition: debug, minutes: 20, memory_gb: 1, sbatch: {hold: true}}\n")
    return file


@pytest.fixture(scope="module")
def cell(grid, tmp_path_factory) -> tuple[Path, Path]:
    """The file of an experiment of one cell, and its folder of runs, which keeps the calibration."""
    folder = tmp_path_factory.mktemp("site")
    settings = yaml.safe_load(grid.read_text()) | {"name": "site", "seeds": [0]}
    settings["arms"][0]["grid"] = {"model.max_compression_depth": [0]}
    (folder / "site.yaml").write_text(yaml.safe_dump(settings))
    return folder / "site.yaml", folder / "runs"


@pytest.fixture
def submit(cluster, cell, held, tmp_path, monkeypatch):
    """``submit(...)`` of the cell, whose jobs are cancelled in the end."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    file, root = cell

    def run(*words, command="submit", check=True, profile=held):
        options = ["--profile", profile] if command == "submit" else []
        return cluster.cad(command, file, *options, "--root", root, *words, check=check)

    yield run
    for kind in KINDS:
        cluster.call("scancel", f"--name=cad-site-{kind}")


@pytest.fixture
def wrap(tmp_path):
    """``wrap(program, text)``: a site's wrapper before the real program, which it calls ``$real``."""

    def write(program: str, text: str) -> None:
        real = subprocess.run(["which", "-a", program], capture_output=True, text=True, check=True).stdout
        file = tmp_path / "bin" / program
        target = next(path for path in real.split() if path != str(file))
        file.write_text(f"#!/bin/bash\nreal={target} count={tmp_path}/count-{program}\n{text}")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    return write


def named(cluster, name: str) -> list[str]:
    return cluster.call("squeue", "-h", "-n", name, "-o", "%i|%P|%l|%T").stdout.split()


def test_variables_around_us_change_nothing(cluster, submit, monkeypatch):
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    done = submit()
    told = [line for line in done.stderr.splitlines() if "not passed to Slurm" in line]
    assert len(told) == 1 and "SBATCH_PARTITION" in told[0] and "SLURM_*" in told[0]
    states = [s["state"] for s in json.loads(submit("--json", command="status").stdout)[0]["stages"]]
    assert states == ["queued"] * 3
    for name in HOSTILE:
        monkeypatch.delenv(name)
    (job,) = named(cluster, "cad-site-histories")
    assert job.split("|")[1:3] == ["debug", "20:00"]
    text = cluster.call("scontrol", "show", "job", job.split("|")[0]).stdout
    assert "Requeue=1" in text
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    assert "cancelled 3 jobs" in submit(command="cancel").stdout


def test_a_banner_is_not_the_number_and_errors_pass(submit, wrap):
    wrap("sbatch", 'echo "your last job 4711 used 3%"\nexec $real "$@"\n')
    wrap(
        "squeue",
        'echo x >>$count\n[ $(wc -l <$count) -gt 2 ] || { echo "slurm_load_jobs error: Socket timed out on '
        'send/recv operation" >&2; exit 1; }\nexec $real "$@"\n',
    )
    assert "job 4711" not in submit().stdout
    done = submit(command="status")
    states = [s["state"] for s in json.loads(submit("--json", command="status").stdout)[0]["stages"]]
    assert states == ["queued"] * 3, done.stderr


def test_an_answer_that_was_lost(cluster, submit, wrap):
    # Slurm takes the first one, and says that it did not.
    wrap(
        "sbatch",
        'echo x >>$count\n[ $(wc -l <$count) -gt 1 ] && exec $real "$@"\n$real "$@" >/dev/null\n'
        'echo "sbatch: error: Socket timed out on send/recv operation" >&2\nexit 1\n',
    )
    said = submit().stdout
    (job,) = named(cluster, "cad-site-histories")
    assert f"submitted histories: job {job.split('|')[0]} " in said
    assert "nothing to submit" in submit().stdout


def test_killed_between_acceptance_and_answer(cluster, submit, cell, held, wrap, tmp_path, wait_for):
    wrap("sbatch", '$real "$@" && touch $count && sleep 60\n')
    command = ["submit", cell[0], "--profile", held, "--root", cell[1]]
    killed = subprocess.Popen(
        [sys.executable, "-m", "cad.cli", *map(str, command)],
        env={**os.environ, **cluster.environment},
        start_new_session=True,
    )
    wait_for(lambda: named(cluster, "cad-site-histories"), 60)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    (tmp_path / "bin/sbatch").unlink()
    assert "Slurm has job" in submit(command="status").stderr
    assert not list(cell[1].rglob("pending-*"))
    assert len(named(cluster, "cad-site-histories")) == 1


def test_refusals_are_said_once(submit, tmp_path):
    profile = tmp_path / "wrong.yaml"
    profile.write_text("resources: {partition: nowhere, minutes: 20}\n")
    for words in (("--dry-run",), ()):
        done = submit(*words, profile=profile, check=False)
        assert done.returncode == 1, done.stdout
        assert len(re.findall("invalid partition", done.stderr)) == 1, done.stderr


@pytest.fixture(scope="module")
def ended(cluster, tmp_path_factory):
    """Job scripts around a worker that ends at once: name to (events, log)."""
    folder = tmp_path_factory.mktemp("ended")
    worker = folder / "worker"
    worker.write_text(WORKER)
    worker.chmod(0o755)
    (folder / "local").mkdir()
    cases = {
        "module": {"modules": ["gcc/99"]},
        "export": {"resources": {"minutes": 5, "memory_gb": 0.1, "sbatch": {"export": "NONE"}}},
        "scratch": {"scratch": "$SITE_SCRATCH/a b", "environment": {"SITE_SCRATCH": str(folder / "local")}},
        "unset": {"scratch": "${NOT_SET_HERE}/x"},
        "image": {"image": "$SITE_IMAGES/none.sif", "environment": {"SITE_IMAGES": "/nowhere"}},
    }
    jobs = {}
    for name, settings in cases.items():
        profile = from_mapping(Profile, {"resources": {"minutes": 5, "memory_gb": 0.1}} | settings, "profile")
        paths = SubmissionPaths(folder / name, folder, str(worker))
        paths.folder.mkdir()
        script = paths.folder / "job.sh"
        script.write_text(job_script(profile, "train", "stand-in", paths, ResourceMultiplier(), None, 1))
        jobs[name] = cluster.call("sbatch", "--parsable", script).stdout.strip()
    deadline = time.monotonic() + 90
    while cluster.call("squeue", "-h", "-j", ",".join(jobs.values()), check=False).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return {
        name: (
            [line.split()[2] for line in (folder / name / f"{job}.attempts").read_text().splitlines()],
            (folder / name / f"{job}_0_log.out").read_text(),
        )
        for name, job in jobs.items()
    }


@pytest.mark.parametrize(
    ("case", "event", "said"),
    [
        ("module", "module-failed", "module load gcc/99 failed on this node"),
        ("export", "done", "executor slurm"),
        ("scratch", "done", "/local/a b/cad-0/triton"),
        (
            "unset",
            "variable-missing",
            "NOT_SET_HERE is not set on this node; the profile names it in scratch",
        ),
        ("image", "image-missing", "/nowhere/none.sif (image) is missing"),
    ],
)
def test_what_the_node_has_and_lacks(ended, case, event, said):
    events, log = ended[case]
    assert events == ["started", event] and said in log


@pytest.fixture
def bad_node(cluster, tmp_path):
    """A file: while it is there, node1 starts no job."""
    bad, prolog, conf = tmp_path / "bad", tmp_path / "prolog", cluster.home / "etc/slurm.conf"
    prolog.write_text(f"#!/bin/bash\n[ ! -e {bad} ]\n")
    prolog.chmod(0o755)
    before = conf.read_text()
    conf.write_text(f"{before}\nProlog={prolog}\n")
    cluster.call("scontrol", "reconfigure")
    bad.touch()
    yield bad
    conf.write_text(before)
    cluster.call("scontrol", "reconfigure")


def test_a_task_that_is_done_releases_those_that_a_node_could_not_start(
    cluster, bad_node, tmp_path, wait_for, monkeypatch
):
    """Slurm holds them in one way, whether a node's prolog fails or its daemon dies."""
    out, script = tmp_path / "out", tmp_path / "done.sh"

    def sbatch(name, *words):
        given = ("--parsable", "--mem=50", "--nodelist=node1", "--requeue", f"--job-name={name}")
        return cluster.call("sbatch", *given, *words).stdout.strip()

    def reasons():
        return dict(
            line.split("|") for line in cluster.call("squeue", "-h", "-o", "%i|%r").stdout.splitlines()
        )

    held = sbatch("cad-x-train", f"--output={out}", "--wrap=echo ran")
    wait_for(lambda: reasons().get(held) == LAUNCH_FAILED, 60)
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    assert queued_jobs([held])[held].reason == LAUNCH_FAILED
    bad_node.unlink()
    cluster.call("scontrol", "update", "NodeName=node1", "State=RESUME")
    paths = SubmissionPaths(tmp_path, tmp_path, sys.executable)
    text = job_script(Profile(), "train", "n", paths, ResourceMultiplier(), None, 1)
    function = text[text.index("release_held() {") : text.index('if [ "$code" = 0 ]')]
    script.write_text(f"#!/bin/bash\n{function}release_held\n")
    sbatch("cad-x-histories", f"--output={tmp_path / 'released'}", str(script))
    wait_for(lambda: out.exists() and out.read_text() == "ran\n", 60)
    assert f"released job {held}," in (tmp_path / "released").read_text()
