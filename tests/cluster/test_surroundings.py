"""What is set around `cad submit` does not change what is submitted; what a site lacks is told."""

from __future__ import annotations

import os

# Each of them changed, or broke, jobs before they were kept away from Slurm's commands.
AROUND = {
    "SBATCH_PARTITION": "urgent",
    "SBATCH_TIMELIMIT": "1",
    "SBATCH_NO_REQUEUE": "1",
    "SBATCH_JOB_NAME": "work",
    "SBATCH_EXPORT": "NONE",
    "SQUEUE_STATES": "COMPLETED",
    "SQUEUE_FORMAT": "%i",
    # As within a job that asked for other things.
    "SLURM_JOB_ID": "7",
    "SLURM_MEM_PER_CPU": "1",
    "SLURM_CPU_BIND": "map_cpu:77",
    "SLURM_NTASKS": "3",
    "SLURM_EXPORT_ENV": "NONE",
}


def test_a_submission_is_what_the_profile_says(cluster, one_cell, with_histories, wait_for, tmp_path):
    root = with_histories(tmp_path / "runs")
    profile = tmp_path / "profile.yaml"
    profile.write_text(
        "resources: {partition: debug, minutes: 20, memory_gb: 1, sbatch: {export: NONE}}\n"
        "signal_seconds: 30\n"
    )
    site = tmp_path / "site"
    site.mkdir()
    wrapper = site / "sbatch"
    wrapper.write_text(
        '#!/bin/bash\necho "Dear user: your last job 4711 used 3% of its memory"\n'
        f'PATH={os.environ["PATH"]} exec sbatch "$@"\n'
    )
    wrapper.chmod(0o755)
    around = {**AROUND, "PATH": f"{site}:{os.environ['PATH']}"}
    done = cluster.cad("submit", one_cell, "--profile", profile, "--root", root, **around)
    assert (
        done.stderr.count("not passed on to Slurm, the profile decides: SBATCH_EXPORT, SBATCH_JOB_NAME") == 1
    )
    assert f"then: cad status {one_cell} --root {root}" in done.stdout.replace("\n", " ")
    train = next(s for s in cluster.stages(one_cell, root).values() if s["kind"] == "train")
    job = cluster.call("scontrol", "--oneliner", "show", "job", train["job_id"]).stdout
    for word in ("Partition=debug", "TimeLimit=00:20:00", "Requeue=1", "JobName=cad-one-train"):
        assert word in job.split(), job
    seen = cluster.cad("status", one_cell, "--root", root, **around).stdout
    assert "dead" not in seen

    def finished():
        stages = cluster.stages(one_cell, root).values()
        assert not [stage for stage in stages if stage["state"] in ("failed", "dead")], stages
        return all(stage["state"] == "done" for stage in stages)

    wait_for(finished, 240)


def test_a_module_that_is_missing_ends_a_task_for_good(cluster, one_cell, with_histories, wait_for, tmp_path):
    root = with_histories(tmp_path / "runs")
    profile = tmp_path / "profile.yaml"
    profile.write_text("resources: {minutes: 20, memory_gb: 1}\nsignal_seconds: 30\nmodules: [nowhere/1.0]\n")
    cluster.cad("submit", one_cell, "--profile", profile, "--root", root)
    wait_for(
        lambda: not any(s["state"] in ("queued", "running") for s in cluster.stages(one_cell, root).values()),
        120,
    )
    train = next(s for s in cluster.stages(one_cell, root).values() if s["kind"] == "train")
    assert (train["state"], train["reason"]) == (
        "dead", "a module of its profile could not be loaded on its node; see the log",
    )  # fmt: skip
    (attempts,) = (root / "one/jobs").glob("*-slurm/*.attempts")
    assert [line.split()[2] for line in attempts.read_text().splitlines()] == ["started", "no-module"]
    assert "module load nowhere/1.0" in cluster.cad("logs", one_cell, "1", "--root", root).stdout
