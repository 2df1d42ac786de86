"""Versions of the packages that results depend on.  Imports none of them."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import version

# Histories depend on these: other versions of them make other histories.
COLLECTION_PACKAGES = ("torch", "stable-baselines3", "numpy", "gymnasium", "h5py")
RESULT_PACKAGES = (*COLLECTION_PACKAGES, "safetensors", "submitit")


def package_versions(packages: Iterable[str] = RESULT_PACKAGES) -> dict[str, str]:
    """The versions of Python and of ``packages``."""
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
