"""The image that jobs run in: the command that enters it, and checks before and after submission."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cad
from cad.cluster.profile import Profile, node_path, node_variables
from cad.errors import CadError
from cad.storage import sha256_file, write_text

DIGEST_FILE = "image.sha256"
_PATIENCE = 120.0
# Isolated (-I): neither PYTHONPATH nor the home directory may change the answer.
_VERSION_OF_CAD = "import importlib.metadata as m; print('cad', m.version('cad'))"


@dataclass(frozen=True)
class Image:
    """An image that works; ``modified`` is its modification time in ns since 1970."""

    path: Path
    sha256: str
    modified: int


def enter(profile: Profile, gpus: int, paths: Sequence[Path]) -> str:
    """The shell words that start the image's Python in a job script, which has set ``$cache``.

    ``paths`` are bound beside what the profile says.
    """
    assert profile.image is not None
    words = _enter(profile, (*map(str, paths), *profile.binds), gpus)
    # Only the job script knows the name of the task's cache, so it is bound by its variable.
    return (
        f'{shlex.join(words)} --bind "$cache" {node_path(profile.image)} {shlex.quote(profile.image_python)}'
    )


def try_image(profile: Profile) -> Image | None:
    """Start the profile's image on this machine and check its version of cad.

    None without an image, for one that only the nodes can find (``$VARIABLES``), and where the profile
    checks it elsewhere (``image_check``).

    Raises :class:`CadError` for an image that is missing, cannot be run, or holds another version of
    ``cad``.
    """
    if profile.image is None or node_variables(profile.image) or profile.image_check != "login":
        return None
    path = Path(profile.image)
    if not path.is_file():
        raise CadError(
            f"{path} (image) is missing; build it (make image), or set image: null to run without one"
        )
    if not os.access(path, os.R_OK):
        raise CadError(f"{path} (image) is not readable for you")
    if shutil.which(profile.image_program) is None:
        raise CadError(
            f"the profile names an image, but there is no {profile.image_program} on the path; if it is a "
            "module here, load that first; if only the nodes have it, set image_check: node"
        )
    # A bind may exist on the nodes only.
    here = tuple(bind for bind in profile.binds if Path(bind).exists())
    modified = path.stat().st_mtime_ns
    version = _version_in(path, profile.image_python, _enter(profile, here, 0))
    if version != cad.__version__:
        raise CadError(
            f"{path} (image) holds cad {version}, but this is cad {cad.__version__}; build the image again "
            "(make image), or submit with that version of cad"
        )
    return Image(path, sha256_file(path), modified)


def freeze_image(image: Image, folder: Path) -> None:
    """Write the image's digest into a submission's folder, in the format of ``sha256sum --check``.

    The file gets the image's modification time: while the image still has that time, a task does not
    need to read all of it.
    """
    file = folder / DIGEST_FILE
    write_text(file, f"{image.sha256}  {image.path}\n")
    os.utime(file, ns=(image.modified, image.modified))


def check_lines(profile: Profile, folder: Path) -> list[str]:
    """Lines of the job script that end a task if its image has changed since the submission."""
    assert profile.image is not None
    image, digest = node_path(profile.image), shlex.quote(str(folder / DIGEST_FILE))
    lines = [
        f'[ -r {image} ] || refuse image-missing {image}" (image) is missing or not readable on this node"'
    ]
    if profile.image_check == "node":
        enter = f"{shlex.join(_enter(profile, (), 0))} {image} {shlex.quote(profile.image_python)}"
        lines += f"""\
version=$({enter} -I -c {shlex.quote(_VERSION_OF_CAD)} | tail -n 1)
[ "$version" = {shlex.quote(f"cad {cad.__version__}")} ] ||
    refuse image-version {image}" (image) holds '$version', not cad {cad.__version__}; build it again"
""".splitlines()
    elif profile.image_check == "login" and not node_variables(profile.image):
        lines += f"""\
if [ {image} -nt {digest} ] || [ {image} -ot {digest} ]; then
    sha256sum --check --status {digest} ||
        refuse image-changed {image}" has changed since the submission (image.sha256); submit again"
fi""".splitlines()
    return lines


def _enter(profile: Profile, binds: tuple[str, ...], gpus: int) -> list[str]:
    words = [profile.image_program, "exec"]
    if gpus:
        words.append(profile.image_gpu_flag)
    for bind in binds:
        words += ["--bind", bind]
    return words


def _version_in(path: Path, python: str, enter: list[str]) -> str:
    """The version of ``cad`` that is installed for the image's Python."""
    command = [*enter, str(path), python, "-I", "-c", _VERSION_OF_CAD]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CadError(f"{enter[0]} cannot run {path} (image): {error}") from error
    # Other output may come first.
    said = done.stdout.strip().rpartition("\n")[2].split()
    if done.returncode == 0 and len(said) == 2 and said[0] == "cad":
        return said[1]
    if "PackageNotFoundError" in done.stderr:
        raise CadError(f"{path} (image) has no cad for its {python} (image_python)")
    last_lines = re.sub(r"\x1b\[[0-9;]*m", "", done.stderr).strip().splitlines()
    why = last_lines[-1] if last_lines else f"exit code {done.returncode}"
    raise CadError(f"{enter[0]} cannot run {python} in {path} (image): {why}")
