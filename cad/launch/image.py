"""The image that jobs run in: the command that enters it, and what is known of it before they start."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import cad
from cad.errors import CadError
from cad.launch.profile import Profile
from cad.storage import sha256_file, write_text

DIGEST_FILE = "image.sha256"
_PATIENCE = 120.0
# Isolated: the answer is the image's own, whatever PYTHONPATH says and the home directory holds.
_VERSION_OF_CAD = "import importlib.metadata as m; print('cad', m.version('cad'))"


@dataclass(frozen=True)
class Image:
    """An image that was tried; ``modified`` is its time of last change, ns since 1970."""

    path: Path
    sha256: str
    modified: int


def enter(profile: Profile, gpus: int, root: Path) -> str:
    """The shell words that start the image's Python in a job script, where ``$cache`` is set."""
    assert profile.image is not None
    words = _enter((str(root), *profile.binds), gpus)
    # The cache of this task, whose name only the job script knows, is not under a folder that is bound.
    return f'{shlex.join(words)} --bind "$cache" {shlex.join([profile.image, profile.image_python])}'


def try_image(profile: Profile) -> Image | None:
    """Start the profile's image on this machine and see what is in it; None where it names none.

    Raises :class:`CadError` for an image that is missing, cannot be run, or is of another version of
    ``cad`` than this one.
    """
    if profile.image is None:
        return None
    path = Path(profile.image)
    if not path.is_file():
        raise CadError(f"{path} (image) is missing; build it (make image), or set image: null to do without")
    if not os.access(path, os.R_OK):
        raise CadError(f"{path} (image) cannot be read by you")
    if shutil.which("apptainer") is None:
        raise CadError(
            "the profile names an image, but there is no apptainer on the path; where it comes as a module, "
            "load that first"
        )
    # A bind may be a disk that only the nodes have.
    here = tuple(bind for bind in profile.binds if Path(bind).exists())
    modified = path.stat().st_mtime_ns
    found = _version_in(path, profile.image_python, _enter(here, 0))
    if found != cad.__version__:
        raise CadError(
            f"{path} (image) holds cad {found}, but this is cad {cad.__version__}; build the image again "
            "(make image), or submit with the version that it holds"
        )
    return Image(path, sha256_file(path), modified)


def freeze_image(image: Image, folder: Path) -> None:
    """Leave the digest in a submission's folder, as ``sha256sum --check`` reads it.

    The file is given the image's own time of change: a task whose image still has that time need not
    read all of it again.
    """
    file = folder / DIGEST_FILE
    write_text(file, f"{image.sha256}  {image.path}\n")
    os.utime(file, ns=(image.modified, image.modified))


def check_lines(profile: Profile, folder: Path) -> list[str]:
    """Lines of the job script that end a task whose image is not the one that was submitted with."""
    assert profile.image is not None
    image, digest = shlex.quote(profile.image), shlex.quote(str(folder / DIGEST_FILE))
    return f"""\
if [ {image} -nt {digest} ] || [ {image} -ot {digest} ]; then
    if ! sha256sum --check --status {digest}; then
        echo {image} "is not the image that was submitted with any more (image.sha256); submit again"
        note image-changed
        exit 1
    fi
fi""".splitlines()


def _enter(binds: tuple[str, ...], gpus: int) -> list[str]:
    words = ["apptainer", "exec"]
    if gpus:
        words.append("--nv")
    for bind in binds:
        words += ["--bind", bind]
    return words


def _version_in(path: Path, python: str, enter: list[str]) -> str:
    """The version of ``cad`` that the image's Python knows of."""
    command = [*enter, str(path), python, "-I", "-c", _VERSION_OF_CAD]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CadError(f"apptainer cannot run {path} (image): {error}") from error
    # Something else may have been said before.
    said = done.stdout.strip().rpartition("\n")[2].split()
    if done.returncode == 0 and len(said) == 2 and said[0] == "cad":
        return said[1]
    if "PackageNotFoundError" in done.stderr:
        raise CadError(f"{path} (image) has no cad in it, as far as its {python} (image_python) knows")
    said_last = re.sub(r"\x1b\[[0-9;]*m", "", done.stderr).strip().splitlines()
    why = said_last[-1] if said_last else f"exit code {done.returncode}"
    raise CadError(f"apptainer cannot run {python} in {path} (image): {why}")
