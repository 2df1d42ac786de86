"""Job scripts, compared with recorded ones; ``CAD_RECORD=1 pytest tests/cluster_unit`` records them again."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

import cad
from cad.cluster.arrays import ResourceMultiplier, plan_arrays
from cad.cluster.image import check_lines, try_image
from cad.cluster.profile import Profile
from cad.cluster.queue import LAUNCH_FAILED
from cad.cluster.script import (
    SubmissionPaths,
    check_path,
    executor_parameters,
    job_script,
    python_command,
)
from cad.config import from_mapping, load
from cad.errors import UsageError
from cad.experiments.plan.stage import Stage
from cad.schema import Config

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
    "retry": {"saved": {"times": 3}, "killed": {"times": 1}},
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
    assert different == {"additional_parameters", "cpus_per_task", "srun_args"}


def test_files_that_the_experiment_names_are_bound_wherever_they_lie(tmp_path):
    """Else a model outside of the runs folder would be missing in the image."""
    weights = tmp_path / "a model.safetensors"
    weights.write_bytes(b"")
    settings = {"model": {"kind": "ad"}, "train": {"weights": str(weights)}}
    stage = Stage("train", from_mapping(Config, settings, "config"))
    (array,) = plan_arrays((stage,), {}, 10)
    assert array.files == (weights,)
    profile = from_mapping(Profile, {"image": "/images/cad.sif"}, "profile")
    command = python_command(profile, "train", PATHS, array.files)
    assert shlex.split(command)[2:6] == ["--bind", str(PATHS.root), "--bind", str(weights)]
    assert "--bind" not in python_command(Profile(), "train", PATHS, array.files)
    with pytest.raises(UsageError, match="a file that the experiment names"):
        python_command(profile, "train", PATHS, [Path("/a,b")])


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


def lines_of(profile: dict, kind: str = "train", memory: float = 1.0) -> list[str]:
    """The options of a job script."""
    made = from_mapping(Profile, profile, "profile")
    text = job_script(made, kind, "x", PATHS, ResourceMultiplier(memory), None, 1)
    parsed(text)
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


def test_what_sites_ask_for_reaches_sbatch() -> None:
    asked = {
        "partition": "gpu,gpu-long", "gpus": "a100:2", "memory_per_cpu_gb": 3,
        "sbatch": {"exclude": "node[1-2]", "licenses": "foo:1", "reservation": "r", "mail-user": "me@x.org"},
    }  # fmt: skip
    lines = lines_of({"resources": asked}, memory=2)
    for line in (
        "--partition=gpu,gpu-long", "--gpus-per-node=a100:2", "--mem-per-cpu=6144M", "--exclude=node[1-2]",
        "--licenses=foo:1", "--reservation=r", "--mail-user=me@x.org",
    ):  # fmt: skip
        assert line in [shlex.split(one)[0] for one in lines]
    assert not any(line.startswith("--mem=") for line in lines)
    assert "--gres=gpu:a100:2" in lines_of({"resources": asked, "gpu_option": "gres"})


def test_a_stage_that_asks_for_memory_in_the_other_way_has_that_alone() -> None:
    profile = {
        "resources": {"memory_per_cpu_gb": 2},
        "stages": {"train": {"memory_gb": 5}, "evaluate": {"cpus": 2}},
    }
    assert [line for line in lines_of(profile) if "--mem" in line] == ["--mem=5120M"]
    assert [line for line in lines_of(profile, "evaluate") if "--mem" in line] == ["--mem-per-cpu=2048M"]


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"resources": {"sbatch": {"time": 5}}}, r"sbatch\.time: write it as minutes"),
        ({"stages": {"train": {"sbatch": {"mem": "3G"}}}}, r"sbatch\.mem: write it as memory_gb"),
        ({"resources": {"memory_gb": 1, "memory_per_cpu_gb": 1}}, "exclude each other"),
        ({"resources": {"gpus": "a100"}}, "gpus"),
        ({"resources": {"gpus": 1, "sbatch": {"gres": "gpu:1"}}, "gpu_option": "gres"}, "gpu_option: gres"),
    ],
)
def test_an_option_has_one_owner(profile: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_mapping(Profile, profile, "profile")


def test_an_image_of_another_program_is_checked_on_the_node(tmp_path: Path) -> None:
    image = tmp_path / "cad.sif"
    image.write_text("")
    program = tmp_path / "singularity"
    profile = from_mapping(
        Profile,
        {"image": str(image), "image_check": "node", "image_program": "singularity",
         "image_gpu_flag": "--rocm", "resources": {"gpus": 1}},
        "profile",
    )  # fmt: skip
    assert try_image(profile) is None  # this machine has no singularity, and need not
    text = job_script(profile, "train", "x", PATHS, ResourceMultiplier(), None, 1)
    assert "singularity exec --rocm --bind" in text
    # The lines that check it, with a program that says which version there is.
    lines = "\n".join(check_lines(profile, tmp_path))
    for version, ends in ((cad.__version__, "goes on\n"), ("0.0.1", "image-version\n")):
        program.write_text(f"#!/bin/bash\necho note; echo cad {version}\n")
        program.chmod(0o755)
        done = subprocess.run(
            ["bash", "-c", f'refuse() {{ echo "$1"; exit 1; }}\n{lines}\necho goes on'],
            capture_output=True, text=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False,
        )  # fmt: skip
        assert done.stdout == ends, done.stderr


@pytest.mark.parametrize(
    ("events", "lost"),
    [
        ("", 0),
        ("started done", 0),
        ("started saved started", 1),
        ("started started bad-node crashed started", 2),
    ],
)
def test_attempts_that_lost_their_node_are_counted(tmp_path, events, lost):
    text = job_script(Profile(), "train", "n", PATHS, ResourceMultiplier(), None, 2)
    line = next(x for x in text.splitlines() if x.startswith("lost="))
    attempts = tmp_path / "1.attempts"
    attempts.write_text("".join(f"1 node1 {event}\n" for event in events.split()))
    shown = subprocess.run(
        ["bash", "-c", f"attempts={attempts}; {line}; echo ${{lost:-0}}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(shown.stdout) == lost


FAILS_TWICE = """#!/bin/bash
echo "$@" >>"$0.calls"
[ "$(wc -l <"$0.calls")" -gt 2 ] || { echo "Unable to contact slurm controller" >&2; exit 1; }
echo "a banner of the site"; echo "cad|RUNNING|None"
"""


def bash_functions(tmp_path: Path, *names: str) -> str:
    """These functions of a job script, with programs of ``tmp_path`` and without pauses."""
    lines = job_script(Profile(), "train", "n", PATHS, ResourceMultiplier(), None, 2).splitlines()
    text = f'PATH={tmp_path}:$PATH\nsleep() {{ :; }}\nnote() {{ echo "note $*"; }}\n'
    for name in names:
        start = lines.index(f"{name}() {{") if f"{name}() {{" in lines else None
        if start is None:
            text += next(line for line in lines if line.startswith(f"{name}()")) + "\n"
        else:
            text += "\n".join(lines[start : lines.index("}", start) + 1]) + "\n"
    return text


def program(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


def test_a_saved_task_is_requeued_although_the_controller_is_away_for_a_while(tmp_path):
    for name in ("squeue", "scontrol"):
        program(tmp_path / name, FAILS_TWICE)
    text = bash_functions(tmp_path, "patiently", "ask", "standing", "stands", "requeue", "again")
    done = subprocess.run(
        ["bash", "-c", f"{text}task=7_1; again saved"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0] == "note saved"
    assert (tmp_path / "scontrol.calls").read_text() == "requeue 7_1\n" * 3


@pytest.mark.parametrize("first", ["echo squeue is down for maintenance", "exit 0", "exec /bin/sleep 60"])
def test_a_saved_task_is_requeued_although_squeue_first_says_nothing_of_it(tmp_path, first):
    """A wrapper may end well without an answer, or never end."""
    program(
        tmp_path / "squeue",
        f'#!/bin/bash\necho x >>"$0.calls"\n[ "$(wc -l <"$0.calls")" -gt 1 ] || {{ {first}; exit; }}\n'
        'echo "cad|RUNNING|None"\n',
    )
    program(tmp_path / "timeout", '#!/bin/bash\nexec /usr/bin/timeout 1 "${@:4}"\n')
    program(tmp_path / "scontrol", '#!/bin/bash\necho "$@" >>"$0.calls"\n')
    text = bash_functions(tmp_path, "patiently", "ask", "standing", "stands", "requeue", "again")
    subprocess.run(
        ["bash", "-c", f"{text}task=7_1; again saved"], capture_output=True, text=True, check=True, timeout=30
    )
    assert (tmp_path / "scontrol.calls").read_text() == "requeue 7_1\n"


def test_a_task_that_is_done_releases_those_that_a_node_could_not_start(tmp_path):
    queue = f"1_2|{LAUNCH_FAILED}|cad-e-train\n1_3|JobHeldUser|cad-e-train\n9|{LAUNCH_FAILED}|mine\n"
    program(tmp_path / "squeue", f"#!/bin/bash\ncat <<'END'\na banner\n{queue}END\n")
    program(tmp_path / "scontrol", '#!/bin/bash\necho "$@" >>"$0.calls"\n')
    text = bash_functions(tmp_path, "release_held")
    subprocess.run(["bash", "-c", f"{text}release_held"], capture_output=True, text=True, check=True)
    assert (tmp_path / "scontrol.calls").read_text() == "release 1_2\n"


def test_a_former_key_names_the_new_one():
    with pytest.raises(UsageError, match=r"max_requeues: unknown key; it is now retry: \{saved"):
        from_mapping(Profile, {"max_requeues": 3}, "profile")


def test_an_environment_of_ones_own_is_seen_in_an_image(tmp_path, monkeypatch):
    """Its folder is bound, and is on the path behind the frozen copy of the program."""
    (tmp_path / "script_vault.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    env = {
        "name": "gymnasium", "id": "script_vault:Vault-v0", "horizon": 5, "n_heldout": 1, "n_validation": 0,
        "tasks": [{"seed": 0}, {"seed": 1}],
    }  # fmt: skip
    settings = {"model": {"kind": "ad"}, "env": env, "train": {"validate_every": 0}}
    (array,) = plan_arrays((Stage("histories", from_mapping(Config, settings, "config")),), {}, 10)
    assert array.code_folders == (tmp_path,)
    texts = []
    for image in ("/images/cad.sif", None):
        profile = from_mapping(Profile, {"image": image}, "profile")
        more = ResourceMultiplier()
        texts.append(job_script(profile, "histories", "n", PATHS, more, None, 1, code=array.code_folders))
    assert f"--bind {tmp_path} " in texts[0]
    assert f"/code':{tmp_path} PYTHONSAFEPATH=1" in texts[0]
    assert str(tmp_path) not in texts[1]
