"""What squeue says, as text (22.05) and as JSON (24.11): the same jobs."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from cad.cluster import command, squeue
from cad.cluster.queue import LAUNCH_FAILED, QueuedJob, find_jobs, queued_jobs
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
| a banner | of the site | in a table | with | columns |
cad|JOBID|STATE|NODELIST|REASON|NAME
cad|1_4|PENDING||Priority|cad-e-train
cad|1_5|PENDING||Priority|cad-e-train
cad|1_7|PENDING||Priority|cad-e-train
cad|2|PENDING||Dependency|a|b
cad|1_0|RUNNING|node1|None|cad-e-train
cad|1_1|COMPLETING||None|cad-e-train
"""
ALL = """cad|ARRAY_JOB_ID|COMMAND|COMMENT
cad|1|/x/1.sh|
cad|1|/x/1.sh|c
cad|2|/x/1.sh|
"""


@pytest.fixture(params=["22.05.8", "24.11.5"])
def slurm(request, monkeypatch):
    """Slurm's answers of one version."""

    def answer(words, **_more):
        if words[0] == "scontrol":
            said = f"slurm-wlm {request.param}\n"
        elif "--states=all" in words:
            said = JSON if "--json" in words else ALL
        else:
            said = JSON if "--json" in words else TEXT
        return subprocess.CompletedProcess(words, 0, said, "")

    monkeypatch.setattr(squeue, "run_command", answer)
    squeue.speaks_json.cache_clear()
    yield request.param
    squeue.speaks_json.cache_clear()


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


def test_what_a_wrapper_says_around_json_is_left_out():
    assert squeue.parse_json(f"a banner\n{JSON}\ngood bye\n") == json.loads(JSON)["jobs"]
    with pytest.raises(ValueError, match="answers with something else: a banner"):
        squeue.parse_json("a banner\n")


def test_a_running_job_runs_whatever_else_it_does_and_a_description_is_the_reason():
    """As squeue's text has them."""
    state, reason = (squeue._FIELDS[name][1] for name in ("state", "reason"))
    assert state(job(1, ["RUNNING", "POWER_UP_NODE"])) == "RUNNING"
    assert state(job(1, ["COMPLETED", "COMPLETING"])) == "COMPLETING"
    held = {"state_reason": "JobHeldUser", "state_description": LAUNCH_FAILED}
    assert reason(job(1, ["PENDING"], **held)) == LAUNCH_FAILED
    assert reason(job(1, ["PENDING"], state_reason="Priority", state_description="")) == "Priority"


@pytest.mark.parametrize(
    ("status", "said", "error"),
    [
        (1, "", "squeue: error: serializer_g_init: cannot find plugin serializer/json"),
        (0, "squeue is down for maintenance\n", ""),
        (0, json.dumps({"jobs": [{"jobid": 1, "state": "RUNNING"}]}), ""),
        (0, json.dumps({"jobs": [job(1, ["PENDING"], array_job_id=None)]}), ""),
    ],
    ids=["built without JSON", "no JSON", "renamed fields", "another type"],
)
@pytest.mark.usefixtures("slurm")
def test_text_is_asked_for_where_json_is_not_as_expected(monkeypatch, status, said, error):
    answer = squeue.run_command

    def other(words, **more):
        if "--json" in words:
            return subprocess.CompletedProcess(words, status, said, error)
        return answer(words, **more)

    monkeypatch.setattr(squeue, "run_command", other)
    assert queued_jobs(["1_0"])["1_0"].state == "RUNNING"
    assert find_jobs("c", "/y.sh") == ["1"]


@pytest.mark.usefixtures("slurm")
def test_a_controller_that_does_not_answer_is_an_error(monkeypatch):
    answer = squeue.run_command

    def down(words, **more):
        if words[0] == "squeue":
            return subprocess.CompletedProcess(words, 1, "", "Unable to contact slurm controller")
        return answer(words, **more)

    monkeypatch.setattr(squeue, "run_command", down)
    with pytest.raises(CadError, match="does not answer: Unable to contact"):
        queued_jobs(["1_0"])


@pytest.mark.parametrize("said", ["", "squeue is down for maintenance\n", "1|2|3|4|5|6|7|8\n"])
@pytest.mark.usefixtures("slurm")
def test_no_answer_is_no_empty_queue(monkeypatch, tmp_path, said):
    """Else what runs would be taken for dead, and submitted a second time."""
    program = tmp_path / "squeue"
    program.write_text(f"#!/bin/sh\nprintf '%s' '{said}'\necho 'Unable to contact slurm controller' >&2\n")
    program.chmod(0o755)
    monkeypatch.setattr(squeue, "run_command", command.run_command)
    monkeypatch.setattr(command, "_PAUSES", (0.0,))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for ask in (lambda: queued_jobs(["1_0"]), lambda: find_jobs("c", "/y.sh")):
        with pytest.raises(CadError, match="squeue does not answer: Unable to contact"):
            ask()


@pytest.mark.usefixtures("slurm")
def test_an_empty_queue_is_one(monkeypatch):
    heading = "cad|JOBID|STATE|NODELIST|REASON|NAME\n"
    for status, said, error in ((0, heading, ""), (1, "", "slurm_load_jobs error: Invalid job id specified")):

        def answer(words, status=status, said=said, error=error, **_more):
            said = '{"jobs": []}' if "--json" in words and not status else said
            return subprocess.CompletedProcess(words, status, said, error)

        monkeypatch.setattr(squeue, "run_command", answer)
        assert queued_jobs(["1_0"]) == {}
