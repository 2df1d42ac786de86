"""Write ``requirements.lock``: what the images install, every package with its exact version.

Versions come from ``constraints.txt``, the one place where they are chosen; which packages are needed
to run ``cad`` is asked of the environment that this runs in.  A test compares the file with that.
"""

from __future__ import annotations

import sys
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
LOCK = Path(__file__).with_name("requirements.lock")
# They build the wheel of cad itself, and of packages that come as source only.
BUILD = ("setuptools", "wheel")
HEADER = "# Made by containers/lock.py from constraints.txt: change versions there, then run it again.\n"


def lock(constraints: str) -> str:
    """The text of the lock file; ends the program for a package that ``constraints`` does not pin."""
    pins = {}
    for line in constraints.splitlines():
        name, equals, version = line.partition("#")[0].strip().partition("==")
        if equals:
            pins[canonicalize_name(name)] = version
    found: set[str] = set(BUILD)
    todo = [Requirement("cad[engines]")]
    while todo:
        parent = todo.pop()
        for text in requires(parent.name) or ():
            needed = Requirement(text)
            name = canonicalize_name(needed.name)
            wanted = needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in ("", *parent.extras)
            )
            if not wanted or name in found:
                continue
            if name not in pins:
                if parent.name == "torch":
                    continue  # its CUDA build pins the libraries that go with it exactly
                raise SystemExit(f"{name}, which {parent.name} needs, has no version in {CONSTRAINTS.name}")
            found.add(name)
            todo.append(needed)
    return HEADER + "".join(f"{name}=={pins[name]}\n" for name in sorted(found))


if __name__ == "__main__":
    LOCK.write_text(lock(CONSTRAINTS.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{LOCK}\n")
