"""A Slurm task of unequal trainings, as its job runs it: processes side by side, one of which is killed."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import yaml

from cad.cluster import worker
from cad.cluster.jobs import CANCELLED
from cad.cluster.script import SAVED
from cad.errors import CadError
from cad.experiments.plan.directory import StageDirectory, StageFile
from cad.experiments.plan.experiment import open_experiment
from cad.experiments.plan.job_records import is_shortage
from cad.experiments.plan.stage import Stage
from cad.experiments.run import side_by_side
from cad.experiments.run.attempt import PROGRESS_LOG
from cad.experiments.run.job import run_or_record
from cad.experiments.run.pack_plan import Room
from cad.experiments.run.resources import Resources
from cad.interrupt import STOP_SIGNALS, InterruptedRun, StopFlag

TWO_CORES = Resources(workers=2)
UPDATES = 200
LONG = {"train.n_updates": UPDATES, "train.validate_every": UPDATES}


@pytest.fixture(scope="module")
def unequal(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of an arm, one of their shape that diverges, and two longer trainings of other shapes."""
    settings = yaml.safe_load(small.read_text(encoding="utf-8"))
    settings["base"]["train"] |= {"n_updates": 20, "validate_every": 10, "num_warmup_steps": 0}
    settings["arms"] = [
        {"name": "good", "set": {"model.kind": "ad"}, "seeds": [0, 1]},
        {"name": "wild", "set": {"model.kind": "ad", "train.learning_rate": 1e9}},
        {"name": "deep", "set": {"model.kind": "ad", "model.n_layer": 2, **LONG}},
        {
            "name": "compressed",
            "set": {"model.kind": "compressed_ad", "train.learning_rate": 0.001, **LONG},
        },
    ]
    file = tmp_path_factory.mktemp("unequal") / "unequal.yaml"
    file.write_text(yaml.safe_dump(settings | {"name": "unequal"}))
    return file


@pytest.fixture
def trainings(unequal, tmp_path) -> dict[str, Stage]:
    """By name: of a model and its seed."""
    cells = open_experiment(unequal, [], tmp_path).cells
    return {f"{cell.label} {cell.config.seed}": cell.training for cell in cells}


@pytest.fixture
def as_a_job() -> Iterator[None]:
    """What a task changes in its process is put back."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    loggers = [(logging.getLogger(name), logging.getLogger(name).level) for name in (PROGRESS_LOG,)]
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    for logger, level in loggers:
        logger.setLevel(level)


def when(happened: Callable[[], bool], then: Callable[[], None]) -> threading.Thread:
    """Do something once, beside the test, as soon as something has happened."""

    def watch() -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            if happened():
                then()
                return
            time.sleep(0.01)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def process_of(directory: StageDirectory) -> int:
    return int((directory.path / ".lock").read_text().split()[1])


@pytest.mark.usefixtures("as_a_job")
def test_a_task_of_unequal_trainings_is_disturbed_and_ends_like_single_ones(
    trainings, collected, with_histories, tmp_path
):
    directories = {name: StageDirectory(collected, stage.name) for name, stage in trainings.items()}
    deep, wild = directories["deep 0"], directories["wild 0"]

    def attempt() -> None:
        worker.slurm_task(collected, tuple(trainings.values()), TWO_CORES)

    def at(update: int) -> bool:
        return deep.locked() and deep.progress().get("done", 0) >= update

    # Preempted: those that run are saved, the others have not begun.
    when(lambda: at(20), lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        attempt()
    assert ended.value.code == SAVED
    assert 20 <= deep.saved_update() < UPDATES and 0 < directories["compressed 0"].saved_update() < UPDATES
    assert not any(one.done or one.failure() or one.locked() for one in directories.values())
    assert not directories["good 0"].path.exists()

    # Of one that is killed, and one that diverges, the others learn nothing.
    saved = deep.saved_update()
    when(lambda: at(saved + 20), lambda: os.kill(process_of(deep), signal.SIGKILL))
    with pytest.raises(CadError, match=r"2 of 5 trainings of this pack failed: train-\w+ train-\w+$"):
        attempt()
    assert [name for name, one in directories.items() if not one.done] == ["wild 0", "deep 0"]
    assert "was killed (out of memory?)" in deep.failure() and is_shortage(deep.failure())
    assert "diverged" in wild.failure()
    failed = wild.file(StageFile.FAILED).stat().st_mtime_ns

    # Whose memory was short begins again where it was saved; who diverged does not.
    with pytest.raises(CadError, match=f"1 of 5 trainings of this pack failed: {wild.name}$"):
        attempt()
    assert deep.done and deep.record()["attempts"] == 3
    assert wild.file(StageFile.FAILED).stat().st_mtime_ns == failed
    alone = with_histories(tmp_path / "alone")
    for name, directory in directories.items():
        if name == "wild 0":
            continue
        run_or_record(alone, trainings[name], Resources(), StopFlag())
        single = alone / "stages" / directory.name / "model.safetensors"
        assert (directory.path / "model.safetensors").read_bytes() == single.read_bytes()
    assert [directories[name].record()["attempts"] for name in ("good 0", "good 1")] == [1, 1]


def test_one_that_is_cancelled_while_others_run_is_saved_and_leaves(trainings, collected, monkeypatch):
    monkeypatch.setattr(side_by_side, "_ASK_EVERY_SECONDS", 0.0)
    directories = {name: StageDirectory(collected, stage.name) for name, stage in trainings.items()}
    deep, good = directories["deep 0"], directories["good 1"]

    def cancel() -> None:
        for directory in (deep, good):  # one that runs, and one that has not begun
            directory.path.mkdir(exist_ok=True)
            directory.record_failure(CANCELLED, expected=True)

    when(lambda: deep.progress().get("done", 0) >= 5, cancel)
    chosen = [stage for name, stage in trainings.items() if name != "wild 0"]
    with pytest.raises(CadError, match="2 of 4 trainings"):
        worker._run_pack(collected, chosen, TWO_CORES)
    assert [name for name, one in directories.items() if one.done] == ["good 0", "compressed 0"]
    assert deep.failure() == good.failure() == CANCELLED
    assert 5 <= deep.saved_update() < UPDATES and good.saved_update() is None


class FakeProcess:
    """In place of a process: ends by itself after some looks, or when it is stopped."""

    started: ClassVar[list[FakeProcess]] = []
    codes: ClassVar[dict[int, int | None]] = {}
    """Exit codes, by the number of the process; else all of its trainings are done."""

    def __init__(self, root, stages, resources, log):
        assert log is None and resources.workers == 1
        self.stages, self.number, self._left = stages, len(FakeProcess.started), 3
        self._root, self.stopped = root, 0
        self.beside = sum(not one.ended for one in FakeProcess.started)
        FakeProcess.started.append(self)

    @property
    def ended(self) -> bool:
        if self._left == 0 and self.number not in FakeProcess.codes:
            for stage in self.stages:
                directory = StageDirectory(self._root, stage.name)
                directory.path.mkdir(parents=True, exist_ok=True)
                directory.finish({})
        return self._left <= 0

    @property
    def exit_code(self):
        return FakeProcess.codes.get(self.number, 0)

    def stop(self):
        self.stopped += 1


@pytest.fixture
def fake(monkeypatch) -> type[FakeProcess]:
    """Processes that run nothing."""
    FakeProcess.started, FakeProcess.codes = [], {}

    def look(processes, _seconds):
        for process in processes:
            process._left -= 1

    monkeypatch.setattr(side_by_side, "StageProcess", FakeProcess)
    monkeypatch.setattr(side_by_side, "wait_for_any", look)
    monkeypatch.setattr(side_by_side, "end_all", lambda _processes: None)
    return FakeProcess


def run(root, stages, room=None, has_left=lambda _directory: False, stop=None):
    stop = stop or StopFlag()
    processes = side_by_side.processes_of(stages, room or Room(2))
    side_by_side._SideBySide(root, processes, room or Room(2), Resources(), stop, has_left).run()
    return processes


def test_no_more_run_at_a_time_than_there_is_room_for(fake, trainings, tmp_path):
    stages = list(trainings.values())
    for cores, most in ((1, 0), (2, 1), (3, 2), (9, 4)):
        fake.started.clear()
        root = tmp_path / str(cores)
        processes = run(root, stages, Room(cores))
        assert [one.stages for one in fake.started] == processes
        assert max(one.beside for one in fake.started) == min(most, len(processes) - 1)
        assert all(StageDirectory(root, stage.name).done for stage in stages)


def test_one_that_does_not_fit_is_passed_by_a_smaller_one(fake, trainings, tmp_path, monkeypatch):
    stages = [trainings[name] for name in ("compressed 0", "deep 0", "good 0")]
    size = dict(zip((stage.name for stage in stages), (3, 4, 1), strict=True))

    def holds(_room, processes):
        return sum(size[stage.name] for some in processes for stage in some) <= 4

    monkeypatch.setattr(Room, "holds", holds)
    run(tmp_path, stages)
    order = [one.stages[0].name for one in fake.started]
    assert order == [stages[0].name, stages[2].name, stages[1].name]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (-signal.SIGKILL, r"its process was killed \(out of memory\?\); run again"),
        (None, r"its process was killed \(out of memory\?\); run again"),
        (-signal.SIGSEGV, "its process was ended by SIGSEGV; run again"),
        (3, "its process ended with code 3 without reporting an error; run again"),
    ],
)
def test_a_process_that_could_not_say_why_it_ended_is_named(fake, trainings, tmp_path, code, why):
    stages = [trainings[name] for name in ("good 0", "good 1", "deep 0")]
    fake.codes = {1: code}
    for stage in stages:
        StageDirectory(tmp_path, stage.name).path.mkdir(parents=True)
    run(tmp_path, stages, Room(1))
    good, deep = fake.started[1].stages, fake.started[0].stages
    assert [len(good), len(deep)] == [2, 1]
    for stage in good:
        assert re.match(why, StageDirectory(tmp_path, stage.name).failure())
    assert StageDirectory(tmp_path, deep[0].name).done


def test_who_has_left_does_not_begin_and_a_process_without_any_is_not_started(fake, trainings, tmp_path):
    stages = [trainings[name] for name in ("good 0", "good 1", "deep 0")]
    left = {stages[0].name, stages[2].name}
    run(tmp_path, stages, Room(1), has_left=lambda directory: directory.name in left)
    assert [one.stages for one in fake.started] == [[stages[1]]]


def test_a_stop_is_passed_on_until_all_have_ended_and_begins_nothing(fake, trainings, tmp_path):
    stages, stop = list(trainings.values()), StopFlag()
    fake.codes = dict.fromkeys(range(9), InterruptedRun.exit_code)
    looks = []

    def ask(_directory):
        looks.append(1)
        if len(looks) == 2:  # the second process is about to begin
            stop.request()
        return False

    with pytest.raises(InterruptedRun, match="training in 3 processes stopped"):
        run(tmp_path, stages, has_left=ask, stop=stop)
    assert len(fake.started) == 2 and min(one.stopped for one in fake.started) > 1
    assert not any(StageDirectory(tmp_path, stage.name).failure() for stage in stages)


def test_one_that_heard_the_signal_before_its_parent_is_no_failure(fake, trainings, tmp_path):
    fake.codes = {0: InterruptedRun.exit_code}
    with pytest.raises(InterruptedRun):
        run(tmp_path, [trainings["deep 0"], trainings["compressed 0"]], Room(1))
    assert len(fake.started) == 1
    # All had ended when the signal came: nothing is left to go on with.
    fake.started.clear()
    fake.codes, stop = {}, StopFlag()
    stop.request()
    run(tmp_path, [], stop=stop)


def test_the_room_is_that_of_the_task():
    resources = Resources(workers=3, memory=5.0)
    assert side_by_side.room_of(resources) == Room(3, 5.0)


def test_one_that_leaves_while_it_runs_is_stopped_alone(fake, trainings, tmp_path, monkeypatch):
    monkeypatch.setattr(side_by_side, "_ASK_EVERY_SECONDS", 0.0)
    deep, compressed = trainings["deep 0"], trainings["compressed 0"]
    directory = StageDirectory(tmp_path, deep.name)

    def has_left(asked: StageDirectory) -> bool:
        if asked.name == deep.name and len(fake.started) == 2 and directory.failure() is None:
            directory.path.mkdir(parents=True)
            directory.record_failure(CANCELLED, expected=True)
        return asked.failure() is not None

    fake.codes = {1: InterruptedRun.exit_code}
    run(tmp_path, [deep, compressed], has_left=has_left)
    assert [one.stages for one in fake.started] == [[compressed], [deep]]
    assert [one.stopped > 0 for one in fake.started] == [False, True]
    assert directory.failure() == CANCELLED and StageDirectory(tmp_path, compressed.name).done
