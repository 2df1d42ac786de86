"""Code of the user's that a config names, by module: where it lies, and whether it has changed.

Stages are named by settings, not by code; the checksum of a module lets later commands say that it is
another one now.  Installed packages have versions instead, and are left out.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from cad.checksums import read_bytes
from cad.envs.config import EnvConfig


def code_folder(module: str) -> Path | None:
    """The folder from which ``module`` is imported; None for what is installed, ours or not found."""
    top = module.partition(".")[0]
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or top == "cad":
        return None
    if spec.submodule_search_locations:
        folder = Path(next(iter(spec.submodule_search_locations))).parent
    elif spec.origin is not None and spec.origin.endswith(".py"):
        folder = Path(spec.origin).parent
    else:
        return None
    folder = folder.absolute()
    installed = {"site-packages", "dist-packages"} & set(folder.parts)
    return None if installed or folder == Path(sysconfig.get_path("stdlib")) else folder


def code_folders(env: EnvConfig) -> tuple[Path, ...]:
    """Folders that have to be on ``PYTHONPATH`` for the config's environments."""
    folder = None if env.own_module is None else code_folder(env.own_module)
    return () if folder is None else (folder,)


def code_checksums(env: EnvConfig) -> dict[str, str]:
    """SHA-256 of the code behind the module that the config names, by its name; empty where it names none.

    It covers the module, or all of its package, and what these import from the same folder.
    """
    module = env.own_module
    folder = None if module is None else code_folder(module)
    if module is None or folder is None:
        return {}
    digest = hashlib.sha256()
    for file in _sources(folder, module.partition(".")[0]):
        content = read_bytes(file)
        digest.update(f"{file.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return {module: digest.hexdigest()}


def _sources(folder: Path, top: str) -> list[Path]:
    """The module or package ``top`` of ``folder``, and those beside it that it imports, directly or not."""
    seen, todo, found = {top}, [top], []
    while todo:
        name = todo.pop()
        alone = folder / f"{name}.py"
        parts = (file for file in (folder / name).rglob("*.py") if file.is_file())
        files = [alone] if alone.is_file() else sorted(parts)
        found += files
        for name in sorted({name for file in files for name in _imported(file)} - seen - {"cad"}):
            if (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file():
                seen.add(name)
                todo.append(name)
    return sorted(found)


def _imported(file: Path) -> set[str]:
    """The top-level names that a file imports."""
    try:
        tree = ast.parse(read_bytes(file))
    except (SyntaxError, ValueError):
        return set()
    nodes = list(ast.walk(tree))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    of = {
        node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level and node.module
    }
    return {name.partition(".")[0] for name in plain | of}
