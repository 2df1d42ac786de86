"""Collecting: complete, deterministic, resumable, and gone when it is told to go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest

from cad.config import PPOConfig
from cad.envs.config import EnvConfig
from cad.envs.registry import env_config, task_family
from cad.envs.split import split_tasks
from cad.errors import CadError, UsageError
from cad.histories.collect import collect
from cad.histories.source import learn, task_seed
from cad.locks import folder_lock

SCRIPT = """
import json, sys
from pathlib import Path
from cad.config import PPOConfig
from cad.envs.registry import env_config
from cad.histories.collect import collect
env, source, out = sys.argv[1:]
collect(env_config(json.loads(env)), PPOConfig(**json.loads(source)), Path(out), workers=1)
"""


def living(group: int) -> list[int]:
    """Processes of a process group that are not zombies."""
    actual = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state != "Z":
            actual.append(int(stat.parent.name))
    return actual


def until(condition: object, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_what_the_workers_took_is_counted(tmp_path: Path, env: EnvConfig, source: PPOConfig) -> None:
    """They are no children of the process that collects, whose own count knows nothing of them."""
    used = collect(env, source, tmp_path / "a.h5", workers=2)
    assert used.cpu_seconds > 0.1 and used.memory_bytes > 2 * 50 * 2**20
    assert collect(env, source, tmp_path / "b.h5", workers=1).memory_bytes < used.memory_bytes


def test_plain_h5py_reads_everything(collected: Path, env: EnvConfig, source: PPOConfig) -> None:
    family, split = task_family(env), split_tasks(env)
    with h5py.File(collected) as file:
        assert file.attrs["schema_version"] == 1
        assert env_config(json.loads(file.attrs["env"])) == env
        assert PPOConfig(**json.loads(file.attrs["source"])) == source
        assert json.loads(file.attrs["split"])["heldout"] == list(split.heldout)
        assert "torch" in json.loads(file.attrs["versions"])
        assert list(file) == [f"task_{task:05d}" for task in family.task_ids]
        for task in family.task_ids:
            group = file[f"task_{task:05d}"]
            assert tuple(group.attrs["goal"]) == family.goal(task)
            assert group["states"].shape == group["next_states"].shape == (12, 240, 2)
            assert group["rewards"].compression == "gzip"
            assert {group[name].dtype.name for name in group} == {"uint8"}
    assert not collected.with_name(collected.name + ".parts").exists()


def test_leaves_no_log_in_the_temporary_folder(
    env: EnvConfig, source: PPOConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    learn(task_family(env), 0, source)
    assert list(temporary.glob("SB3*")) == []


def test_seeds_differ_by_task_and_seed() -> None:
    assert len({task_seed(seed, task) for seed in range(5) for task in range(81)}) == 405


def test_workers_and_foreign_or_damaged_parts_change_nothing(
    collected: Path, env: EnvConfig, source: PPOConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, parts = tmp_path / "histories.h5", tmp_path / "histories.h5.parts"
    parts.mkdir()
    first, second = (parts / f"task_{task:05d}.h5" for task in task_family(env).task_ids[:2])
    with h5py.File(first, "w") as file:
        file.attrs["fingerprint"] = "of another config"
    second.write_bytes(b"cut short")
    collect(env, source, out, workers=2)
    assert out.read_bytes() == collected.read_bytes()
    assert capfd.readouterr() == ("", "")  # progress is the caller's to show


@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_goes_on_after_a_stop(
    how: str, collected: Path, env: EnvConfig, source: PPOConfig, tmp_path: Path
) -> None:
    out = tmp_path / "histories.h5"
    parts = tmp_path / "histories.h5.parts"
    arguments = [env.model_dump_json(), source.model_dump_json(), str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments], start_new_session=True, stderr=subprocess.DEVNULL
    )
    until(lambda: list(parts.glob("task_*.h5")), 60)
    if how == "killed":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does on Ctrl-C
    assert process.wait(20) != 0
    until(lambda: not living(process.pid), 20)  # no worker stays behind
    assert not out.exists()
    kept = {part: part.stat().st_mtime_ns for part in parts.glob("task_*.h5")}
    assert 1 <= len(kept) < 4
    if how == "interrupted":
        return  # going on from here is the same as after a kill

    calls: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        calls.append((done, total))
        if done < total:  # the last call may come after the parts were assembled
            assert all(part.stat().st_mtime_ns == before for part, before in kept.items())

    collect(env, source, out, workers=1, progress=progress)
    assert calls[0] == (len(kept), 4)
    assert calls[-1] == (4, 4)
    assert out.read_bytes() == collected.read_bytes()
    assert not parts.exists()


def test_progress_can_stop_it(env: EnvConfig, source: PPOConfig, tmp_path: Path) -> None:
    def stop(done: int, _total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(env, source, tmp_path / "h.h5", workers=1, progress=stop)
    assert len(list((tmp_path / "h.h5.parts").glob("task_*.h5"))) >= 1
    assert not (tmp_path / "h.h5").exists()


def test_refusals(env: EnvConfig, source: PPOConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="workers=0"):
        collect(env, source, tmp_path / "h.h5", workers=0)
    with folder_lock(tmp_path / "h.h5.parts", "x"), pytest.raises(CadError, match="in use"):
        collect(env, source, tmp_path / "h.h5", workers=1)


@pytest.mark.parametrize("setting", [{"gae_lambda": 0.1}, {"clip_range": 0.01}], ids=lambda s: next(iter(s)))
def test_settings_of_ppo_change_what_it_does(env: EnvConfig, source: PPOConfig, setting: dict) -> None:
    source = source.model_copy(update={"steps_per_stream": 60})  # three updates of the agents
    settings = (source, source, source.model_copy(update=setting))
    usual, again, other = (learn(task_family(env), 0, one).actions.tolist() for one in settings)
    assert usual == again
    assert usual != other


def test_agents_that_diverge_say_so(env: EnvConfig, source: PPOConfig) -> None:
    fast = source.model_copy(update={"learning_rate": 1e9})
    with pytest.raises(CadError, match=r"the source agents diverged: .* lower source.learning_rate"):
        learn(task_family(env), 0, fast)
