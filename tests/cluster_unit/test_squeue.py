"""What squeue says, as text (22.05) and as JSON (24.11): the same jobs."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from cad.cluster import squeue
from cad.cluster.queue import QueuedJob, find_jobs, queued_jobs
from cad.errors import CadError

UNSET = {"set": False, "infinite": False, "number": 0}


def number(value: int) -> dict[str, Any]:
    return {"set": True, "infinite": False, "number": value}


def job(job_id: int, states: list[str], **other: Any) -> dict[str, Any]:
    """As 24.11.5 writes it, without the keys that nobody reads."""
    return {
        "job_id": job_id,
        "array_job_id": number(0),
        "array_task_id": UNSET,
        "array_task_string": "",
        "job_state": states,
        "nodes": "",
        "state_reason": "None",
        "name": "cad-e-train",
        "comment": "",
        "command": "/x/1.sh",
        "account": "",
        "qos": "",
        **other,
    }


JSON = json.dumps(
    {
        "jobs": [
            job(3, ["RUNNING"], array_job_id=number(1), array_task_id=number(0), nodes="node1"),
            job(4, ["COMPLETED", "COMPLETING"], array_job_id=number(1), array_task_id=number(1)),
            job(5, ["COMPLETED"], array_job_id=number(1), array_task_id=number(2), comment="c"),
            job(1, ["PENDING"], array_job_id=number(1), array_task_string="4-5,7%2", state_reason="Priority"),
            job(2, ["PENDING"], state_reason="Dependency", name="a|b"),
        ]
    }
)
TEXT = """\
1_4|PENDING||Priority|cad-e-train
1_5|PENDING||Priority|cad-e-train
1_7|PENDING||Priority|cad-e-train
2|PENDING||Dependency|a|b
1_0|RUNNING|node1|None|cad-e-train
1_1|COMPLETING||None|cad-e-train
"""


@pytest.fixture(params=["22.05.8", "24.11.5"])
def slurm(request, monkeypatch):
    """Slurm's answers of one version."""

    def answer(command, **_more):
        if command[0] == "scontrol":
            said = f"slurm-wlm {request.param}\n"
        elif "--states=all" in command:
            said = JSON if "--json" in command else "1|/x/1.sh|\n1|/x/1.sh|c\n2|/x/1.sh|\n"
        else:
            said = JSON if "--json" in command else TEXT
        return subprocess.CompletedProcess(command, 0, said, "")

    monkeypatch.setattr(squeue, "run_command", answer)
    squeue._has_json.cache_clear()
    yield request.param
    squeue._has_json.cache_clear()
    squeue._UNREADABLE.clear()


def test_tasks_that_are_queued_or_running(slurm):
    assert squeue.speaks_json() == (slurm == "24.11.5")
    queue = queued_jobs(["1_0", "1_1", "1_2", "1_5", "1_6", "2"])
    assert queue == {
        "1_0": QueuedJob("1_0", "RUNNING", "node1", "None", "cad-e-train"),
        "1_1": QueuedJob("1_1", "COMPLETING", "", "None", "cad-e-train"),
        "1_5": QueuedJob("1_5", "PENDING", "", "Priority", "cad-e-train"),
        "2": QueuedJob("2", "PENDING", "", "Dependency", "a|b"),
    }


@pytest.mark.usefixtures("slurm")
def test_jobs_are_found_by_their_comment_ended_ones_too():
    assert find_jobs("c", "/y.sh") == ["1"]
    assert find_jobs("-", "/x/1.sh") == ["1", "2"]


def test_numbers_of_tasks():
    assert list(squeue.task_numbers("0-2,7,10-20:5%4")) == [0, 1, 2, 7, 10, 15, 20]
    assert list(squeue.task_numbers("")) == []


@pytest.mark.parametrize(
    ("code", "said", "error"),
    [
        (1, "", "squeue: error: Unable to find plugin: serializer/json"),  # built without it
        (0, "a banner\n", ""),
        (0, json.dumps({"jobs": [{"id": 1}]}), ""),  # keys of a Slurm to come
        (0, json.dumps({"jobs": [{**job(2, []), "job_state": "PENDING"}]}), ""),
        (0, json.dumps([]), ""),
    ],
)
@pytest.mark.usefixtures("slurm")
def test_where_json_cannot_be_read_text_is(code, said, error, monkeypatch):
    asked = []

    def answer(command, **_more):
        asked.append("--json" in command)
        if command[0] == "scontrol":
            return subprocess.CompletedProcess(command, 0, "slurm 25.11.0", "")
        if "--json" in command:
            return subprocess.CompletedProcess(command, code, said, error)
        return subprocess.CompletedProcess(command, 0, TEXT, "")

    monkeypatch.setattr(squeue, "run_command", answer)
    for _ in range(2):
        assert queued_jobs(["1_1"])["1_1"].state == "COMPLETING"
    assert asked.count(True) == 1


@pytest.mark.parametrize("slurm", ["24.11.5"], indirect=True)
@pytest.mark.usefixtures("slurm")
def test_what_a_wrapper_says_before_the_json_is_left_out(monkeypatch):
    plain = squeue.run_command

    def answer(command, **more):
        done = plain(command, **more)
        done.stdout = ("site notice: maintenance on Monday\n" if "--json" in command else "") + done.stdout
        return done

    monkeypatch.setattr(squeue, "run_command", answer)
    assert queued_jobs(["1_0"])["1_0"].node == "node1"
    assert squeue.speaks_json()


@pytest.mark.parametrize("slurm", ["24.11.5"], indirect=True)
@pytest.mark.usefixtures("slurm")
def test_a_controller_that_does_not_answer_is_not_taken_for_one_without_json(monkeypatch):
    def answer(command, **_more):
        said = "slurm 24.11.5" if command[0] == "scontrol" else ""
        return subprocess.CompletedProcess(
            command, int(not said), said, "slurm_load_jobs error: Socket timed out"
        )

    monkeypatch.setattr(squeue, "run_command", answer)
    with pytest.raises(CadError, match=r"does not answer: .*Socket timed out"):
        queued_jobs(["1_1"])
    assert squeue.speaks_json()
