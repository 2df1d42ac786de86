"""Results are the same whatever the shell, the notebook or the launcher left behind."""

from __future__ import annotations

import shutil

from forked import run_cli

from cad.surroundings import LEFT_OUT

# Beside what is dropped: what terminals, locales and caches say.
KEPT = {
    "CUDA_VISIBLE_DEVICES": "", "NCCL_DEBUG": "INFO", "GLOO_SOCKET_IFNAME": "lo", "FORCE_COLOR": "1",
    "COLUMNS": "31", "LC_ALL": "C", "LANG": "C", "TZ": "Asia/Tokyo", "WANDB_MODE": "online",
    "XDG_CACHE_HOME": "/nowhere", "HDF5_USE_FILE_LOCKING": "FALSE", "PYTHONIOENCODING": "ascii",
}  # fmt: skip


def test_a_run_does_not_depend_on_its_surroundings(small, copy, finished, same_results):
    evaluation = min((copy / "stages").glob("evaluate-*"))
    shutil.rmtree(evaluation)
    hostile = {name.replace("*", "X"): "3" for _, names in LEFT_OUT for name in names}
    words = ["run", str(small), "--root", str(copy), "--inline", "--no-report"]
    done = run_cli(words, environment={**hostile, **KEPT})
    assert done.returncode == 0, done.stdout + done.stderr
    assert (evaluation / "DONE").exists()
    assert "\x1b[?25" not in done.stdout  # no table that redraws itself: this is a file
    same_results(copy, finished)
