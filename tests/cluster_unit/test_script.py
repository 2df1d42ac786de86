"""Job scripts, compared with recorded ones; ``CAD_RECORD=1 pytest tests/cluster_unit`` records them again."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from cad.cluster.arrays import ResourceMultiplier
from cad.cluster.profile import Profile
from cad.cluster.script import SubmissionPaths, check_path, executor_parameters, job_script
from cad.config import from_mapping, load
from cad.errors import UsageError

GOLDEN = Path(__file__).parent / "golden"
PROFILES = Path(__file__).parents[2] / "slurm" / "profiles"
PATHS = SubmissionPaths(
    Path("/scratch/my runs;x/small/jobs/1"), Path("/scratch/my runs;x"), "/opt/venv/bin/python"
)

EVERYTHING = {
    "resources": {
        "partition": "gpu",
        "account": "me & co",
        "qos": "low",
        "constraint": "a100|h100",
        "minutes": 30,
        "memory_gb": 1.5,
        "cpus": 4,
        "gpus": 1,
        "throttle": 2,
        "sbatch": {"exclusive": True, "nice": 10, "reservation": "a; rm -rf /", "overcommit": False},
    },
    "stages": {"histories": {"gpus": 0, "cpus": 16}},
    "modules": ["python/3.11", "x; y"],
    "environment": {"GREETING": "it's $HOME"},
    "scratch": "/local scratch",
    "signal_seconds": 60,
    "max_requeues": 3,
    "max_crashes": 1,
    "image": "/images/cad.sif",
    "image_python": "/opt/venv/bin/python3",
    "binds": ["/data one"],
}


def compare(name: str, text: str) -> None:
    file = GOLDEN / name
    if os.environ.get("CAD_RECORD"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def parsed(text: str) -> None:
    """Bash can read it."""
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_array_of_defaults():
    text = job_script(Profile(), "train", "cad-small-train", PATHS, ResourceMultiplier(), "aftercorr:12", 4)
    parsed(text)
    compare("defaults.sh", text)


def test_one_job_with_everything():
    profile = from_mapping(Profile, EVERYTHING, "profile")
    text = job_script(
        profile, "train", "cad-small-train", PATHS, ResourceMultiplier(2, 3), "afterok:1:2_3", 1
    )
    parsed(text)
    compare("everything.sh", text)


def test_trainings_over_several_nodes():
    profile = load(Profile, [PROFILES / "multinode.yaml"]).value
    text = job_script(profile, "train", "cad-small-train", PATHS, ResourceMultiplier(), "afterok:1", 3)
    parsed(text)
    compare("multinode.sh", text)
    one = job_script(profile, "evaluate", "cad-small-evaluate", PATHS, ResourceMultiplier(), None, 3)
    assert "--nodes=1\n#SBATCH --ntasks-per-node=1\n" in one


def test_stages_differ_only_in_what_is_said():
    profile = from_mapping(Profile, EVERYTHING, "profile")
    histories, train = (
        executor_parameters(profile, kind, "n", PATHS, ResourceMultiplier(), None)
        for kind in ("histories", "train")
    )
    different = {key for key in histories | train if histories.get(key) != train.get(key)}
    assert different == {"gpus_per_node", "cpus_per_task", "srun_args"}


def test_values_stay_values_in_the_shell():
    profile = from_mapping(Profile, {"environment": {"A": "'; exit 7; '$(exit 8)"}}, "profile")
    line = next(
        x
        for x in job_script(profile, "train", "n", PATHS, ResourceMultiplier(), None, 2).splitlines()
        if " A=" in x
    )
    shown = subprocess.run(
        ["bash", "-c", f'{line}; printf %s "$A"'], capture_output=True, text=True, check=True
    )
    assert shown.stdout == "'; exit 7; '$(exit 8)"
    assert shlex.split(line)[1].startswith("A=")


def test_compilers_caches_are_in_a_folder_that_nobody_else_made(tmp_path):
    text = job_script(
        from_mapping(Profile, {"scratch": str(tmp_path)}, "profile"),
        "train", "n", PATHS, ResourceMultiplier(), None, 2,
    )  # fmt: skip
    lines = text[text.index("export cache=") : text.index("# The worker looks for")]

    def cache() -> Path:
        done = subprocess.run(
            ["bash", "-c", f'set -e; refuse() {{ exit 9; }}\n{lines}echo "$TORCHINDUCTOR_CACHE_DIR"'],
            capture_output=True, text=True, check=True, env={**os.environ, "SLURM_JOB_ID": "12"},
        )  # fmt: skip
        return Path(done.stdout.splitlines()[-1]).parent

    own = tmp_path / f"cad-{os.getuid()}"
    assert cache() == own and own.stat().st_mode & 0o777 == 0o700
    assert cache() == own
    own.chmod(0o750)
    fresh = cache()
    assert fresh.name.startswith(f"{own.name}-12-") and fresh.stat().st_mode & 0o777 == 0o700
    assert cache() not in (own, fresh)
    own.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    own.symlink_to(tmp_path / "elsewhere")
    assert cache() != own
    if os.geteuid() == 0:
        own.unlink()
        own.mkdir(mode=0o700)
        os.chown(own, 65534, 65534)
        assert cache() != own


@pytest.mark.parametrize("name", ["a%j", "a:b", "a,b", "a\\b", "a'b", 'a"b', "a\nb", "$HOME"])
def test_paths_that_sbatch_would_misread_are_refused(name):
    with pytest.raises(UsageError, match="rename"):
        check_path(Path("/runs") / name, "the folder of runs")


def test_paths_with_spaces_and_semicolons_are_fine():
    check_path(Path("/my runs;x"), "the folder of runs")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"resources": {"partition": "a\nb"}}, "partition"),
        ({"resources": {"sbatch": {"--nice": 1}}}, "sbatch"),
        ({"resources": {"sbatch": {"comment": "a\\b"}}}, r"resources\.sbatch\.comment: "),
        ({"resources": {"account": "a\\b"}}, "account"),
        ({"environment": {"A B": "c"}}, "environment"),
        ({"environment": {"A": "b\nc"}}, "environment"),
        ({"binds": ["/a,/b"]}, "binds"),
        ({"image": "relative.sif"}, "image"),
        ({"stages": {"training": {}}}, "stages"),
        ({"resources": {"minuts": 3}}, "minutes"),
        ({"resources": {"minutes": 2}, "signal_seconds": 120}, "signal_seconds"),
        ({"stages": {"train": {"minutes": 1}}}, "signal_seconds"),
        ({"resources": {"sbatch": {"job-name": "mine"}}}, "job-name"),
        ({"resources": {"nodes": 2}}, "histories"),
        ({"stages": {"evaluate": {"tasks_per_node": 2}}}, "evaluate"),
    ],
)
def test_bad_profiles(settings, key):
    with pytest.raises(UsageError, match=key):
        from_mapping(Profile, settings, "profile")


@pytest.mark.parametrize("file", sorted(PROFILES.glob("*.yaml")), ids=lambda file: file.name)
def test_the_profiles_that_come_along_are_sound(file):
    profile = load(Profile, [file]).value
    for kind in ("histories", "train", "evaluate"):
        parsed(job_script(profile, kind, "n", PATHS, ResourceMultiplier(), None, 3))
