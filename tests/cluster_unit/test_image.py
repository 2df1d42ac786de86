"""Images that cannot be used are refused before submission; a task refuses an image that has changed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import cad
from cad.cluster.image import DIGEST_FILE, Image, check_lines, freeze_image, try_image
from cad.cluster.profile import Profile
from cad.errors import CadError

MakeImage = Callable[[str], Path]


@pytest.fixture
def make_image(tmp_path: Path) -> MakeImage:
    """``make_image("echo cad 1")``: an image with only a shell, whose ``python3`` is that script."""
    if shutil.which("apptainer") is None:
        pytest.skip("needs Apptainer (https://apptainer.org/docs/admin/main/installation.html)")

    def make(script: str) -> Path:
        folder = tmp_path / "rootfs"
        shell = Path("/bin/sh").resolve()
        linked = subprocess.run(["ldd", shell], capture_output=True, text=True, check=True).stdout
        files = [Path(path) for path in re.findall(r"/\S+", linked)]
        for source, target in [(file, file) for file in files] + [(shell, Path("/bin/sh"))]:
            place = folder / target.relative_to("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
        for name in ("tmp", "proc", "sys", "dev", "etc", "root", "home", "var/tmp"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        python = folder / "bin" / "python3"
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
        image = tmp_path / "small.sif"
        done = subprocess.run(
            ["apptainer", "build", "--force", image, folder], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return image

    return make


def test_no_image_is_none():
    assert try_image(Profile()) is None


def test_a_missing_image(tmp_path):
    with pytest.raises(CadError, match=r"cad\.sif \(image\) is missing; build it \(make image\)"):
        try_image(Profile(image=f"{tmp_path}/cad.sif"))


def test_no_apptainer(tmp_path, monkeypatch):
    (tmp_path / "cad.sif").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CadError, match="there is no apptainer on the path"):
        try_image(Profile(image=f"{tmp_path}/cad.sif"))


def test_an_image_of_this_version(make_image):
    image = make_image(f"echo something else; echo cad {cad.__version__}")
    tried = try_image(Profile(image=str(image), binds=("/not/on/this/machine",)))
    assert tried == Image(image, hashlib.sha256(image.read_bytes()).hexdigest(), image.stat().st_mtime_ns)


def test_an_image_of_another_version(make_image):
    image = make_image("echo cad 9.9.9")
    with pytest.raises(CadError, match=rf"holds cad 9\.9\.9, but this is cad {re.escape(cad.__version__)}"):
        try_image(Profile(image=str(image)))


def test_an_image_without_cad(make_image):
    image = make_image("echo importlib.metadata.PackageNotFoundError: cad >&2; exit 1")
    with pytest.raises(CadError, match="has no cad for its"):
        try_image(Profile(image=str(image)))


def test_images_that_cannot_be_run(make_image):
    image = make_image("echo it is broken >&2; exit 3")
    with pytest.raises(CadError, match=r"cannot run python3 in .*: it is broken"):
        try_image(Profile(image=str(image)))
    with pytest.raises(CadError, match=r"cannot run /opt/none in .*no such file"):
        try_image(Profile(image=str(image), image_python="/opt/none"))
    image.write_text("no image")
    with pytest.raises(CadError, match="cannot run python3 in"):
        try_image(Profile(image=str(image)))


def test_a_task_refuses_an_image_that_changed_since_the_submission(tmp_path):
    image = tmp_path / "it's mine.sif"
    image.write_text("as submitted")
    submission = tmp_path / "jobs"
    submission.mkdir()
    stat = image.stat()
    freeze_image(Image(image, hashlib.sha256(image.read_bytes()).hexdigest(), stat.st_mtime_ns), submission)
    functions = ["note() { echo noted: $1; }", 'refuse() { echo "$2"; note "$1"; exit 1; }']
    lines = [*functions, *check_lines(Profile(image=str(image)), submission), "echo ran"]

    def task() -> tuple[int, str]:
        done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    assert task() == (0, "ran\n")
    # A copy of it is as good; one that has the same time is not even read.
    os.utime(image)
    assert task() == (0, "ran\n")
    image.write_text("another")
    code, said = task()
    assert code == 1 and "submit again" in said and said.endswith("noted: image-changed\n")
    image.unlink()
    assert task()[0] == 1
    assert (submission / DIGEST_FILE).stat().st_mtime_ns == stat.st_mtime_ns
