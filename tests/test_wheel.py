"""A built wheel works without the repository: installed in a fresh environment, it runs an experiment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import cad

ROOT = Path(__file__).parents[1]
EXPERIMENT = """
name: installed
base:
  include: [configs/env/darkroom.yaml, configs/model/ad.yaml]
  env: {size: 3, horizon: 5, n_tasks: 6, n_heldout: 2, n_validation: 0}
  source: {kind: noise_distillation, n_streams: 4, steps_per_stream: 60}
  model: {n_layer: 1, n_embd: 16, n_head: 2, n_transit: 10}
  train: {n_updates: 4, batch_size: 4, num_warmup_steps: 1, validate_every: 0, max_episode_gap: 2,
          watchdog_share: null}
  evaluation: {n_episodes: 2, n_rollouts: 1}
arms:
  - {name: AD of the package}
"""


def run(*words: str | Path, cwd: Path) -> str:
    """Standard output; nothing of the checkout is on the path."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_installed_wheel_runs_an_experiment_with_its_presets(tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    # Of a copy: setuptools leaves a folder beside what it builds, from which the next wheel takes old files.
    source = shutil.copytree(ROOT / "cad", tmp_path / "source/cad").parent
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("cad-*.whl")
    assert wheel.name.split("-")[1] == cad.__version__
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "fresh", cwd=tmp_path)
    python = tmp_path / "fresh/bin/python"
    place = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    )
    # Everything else comes from this environment, behind what the fresh one has: no network is needed.
    (place / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    run(*pip, "--python", python, "install", "--no-deps", "--ignore-installed", wheel, cwd=tmp_path)
    where = run(python, "-c", "import cad; print(cad.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(tmp_path / "fresh")
    (tmp_path / "e.yaml").write_text(EXPERIMENT)
    program = tmp_path / "fresh/bin/cad"
    said = run(program, "run", "e.yaml", "--no-figures", "--inline", cwd=tmp_path)
    assert "report: " in said and "used: " in said
    assert "AD of the package" in (tmp_path / "runs/installed/report/report.html").read_text()
