"""Where the numbers come from: stages and their cost, code, packages, machine, inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cad.reports.data import (
    Provenance,
    Shown,
    ShownTable,
    StageRecord,
    Table,
    Value,
    finite,
    number_cell,
    text_cell,
)
from cad.surroundings import worth_asking_for

_COLUMNS = (
    "stage", "kind", "state", "wall_seconds", "cores", "core_hours", "attempts", "job_id", "code_version",
    "code_differs_from_commit", "hardware", "image_sha256", "peak_memory_bytes", "cpu_seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """One line of the list: a term and its text."""

    term: str
    text: str


def provenance_json(provenance: Provenance) -> dict[str, Any]:
    """All but the stages, which are a table."""
    record = asdict(provenance)
    del record["stages"]
    if not provenance.own_code:
        del record["own_code"]
    return record | {"commands": list(provenance.commands)}


def stage_tables(provenance: Provenance) -> dict[str, Table]:
    """``stages``, where any is known; its times differ from run to run, so no fingerprint covers it."""
    rows: list[tuple[Value, ...]] = [
        (stage.name, stage.kind, stage.state, finite(stage.wall_seconds), stage.cores,
         finite(stage.core_hours), stage.attempts, stage.job_id, stage.code_version,
         None if stage.dirty is None else str(stage.dirty).lower(), stage.hardware, stage.image,
         stage.peak_memory_bytes, finite(stage.cpu_seconds))
        for stage in provenance.stages
    ]  # fmt: skip
    return {"stages": Table(_COLUMNS, rows)} if rows else {}


def costs_table(provenance: Provenance) -> ShownTable | None:
    """Wall and core-hours by kind of stage; None where no stages are known."""
    kinds = list(dict.fromkeys(stage.kind for stage in provenance.stages))
    if not kinds:
        return None
    rows = [_cost_row(kind, [s for s in provenance.stages if s.kind == kind]) for kind in kinds]
    rows.append(_cost_row("all", provenance.stages))
    headers = ("stage", "done", "failed", "missing", "wall, h", "core-hours", "attempts beyond the first",
               "most memory, GiB", "CPU time of the cores held")  # fmt: skip
    caption = "Time per kind of stage; stages that cells share are counted once"
    enough = [f"{kind} {words}" for kind in kinds if (words := _enough(provenance, kind))]
    if enough:
        caption += f". What a profile may ask for, with some to spare: {'; '.join(enough)}"
    return ShownTable("stages-table", caption, headers, rows)


def _enough(provenance: Provenance, kind: str) -> str:
    done = [
        stage
        for stage in provenance.stages
        if stage.kind == kind and stage.state == "done" and not stage.shared
    ]
    peak = max((stage.peak_memory_bytes or 0 for stage in done), default=0)
    # Over all attempts of a stage: more than one of them took, where it was stopped.
    return worth_asking_for(peak, max((stage.wall_seconds or 0.0 for stage in done), default=0.0))


def _cost_row(kind: str, stages: Sequence[StageRecord]) -> tuple[Shown, ...]:
    states = [stage.state for stage in stages]
    done = [stage for stage in stages if stage.state == "done"]
    return (
        text_cell(kind),
        *(number_cell(states.count(state), ".0f") for state in ("done", "failed", "missing")),
        number_cell(_sum([None if s.wall_seconds is None else s.wall_seconds / 3600 for s in done]), ",.3f"),
        number_cell(_sum([stage.core_hours for stage in done]), ",.3f"),
        number_cell(_sum([None if s.attempts is None else float(s.attempts - 1) for s in done]), ".0f"),
        number_cell(
            max((s.peak_memory_bytes / 2**30 for s in done if s.peak_memory_bytes), default=None), ".2f"
        ),
        number_cell(_efficiency(done), ".0%"),
    )


def _efficiency(done: Sequence[StageRecord]) -> float | None:
    """CPU time by the time of the cores held, of stages that one attempt finished."""
    known = [s for s in done if s.attempts == 1 and s.cpu_seconds is not None and s.core_hours]
    held = sum(3600 * (s.core_hours or 0) for s in known)
    return sum(s.cpu_seconds or 0 for s in known) / held if held else None


def _sum(values: Sequence[float | None]) -> float | None:
    """None where one is unknown: the sum of a part is not the whole."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def provenance_notices(provenance: Provenance) -> list[str]:
    """Unfinished stages, and stages whose code is unclear."""
    lines = []
    states = [stage.state for stage in provenance.stages]
    if missing := len(states) - states.count("done"):
        failed = states.count("failed")
        lines.append(
            f"Unfinished: {states.count('done')} of {len(states)} stages are done, {failed} failed, "
            f"{missing - failed} missing."
        )
    versions = _distinct(stage.code_version for stage in provenance.stages)
    if len(versions) > 1:
        lines.append(f"The stages were run by {len(versions)} versions of the code: {', '.join(versions)}.")
    if changed := sum(stage.dirty is True for stage in provenance.stages):
        lines.append(
            f"{changed} of {len(states)} stages were run by code with uncommitted changes: the commit alone "
            "does not reproduce them."
        )
    for module, digests in _own_code(provenance).items():
        now = provenance.own_code.get(module)
        if len(digests) > 1:
            lines.append(f"The stages were run with {len(digests)} states of the code of {module}.")
        elif now is not None and now not in digests:
            lines.append(f"The code of {module} has changed since the stages were run.")
    return lines


def facts(provenance: Provenance, seeds: Sequence[int], fingerprint: str) -> list[Fact]:
    """Code, packages, hardware, jobs, seeds, checksums, in order."""
    done = [stage for stage in provenance.stages if stage.state == "done"]
    own = _code(provenance.code_version, provenance.dirty)
    codes = _distinct(_code(s.code_version, s.dirty) for s in done if s.code_version is not None)
    machines = _distinct(stage.hardware for stage in done)
    lines = [
        Fact("code of the report", own),
        Fact("code of the stages", "; ".join(codes) or "not recorded"),
        Fact("packages", _packages(provenance.packages)),
    ]
    others = _distinct(
        _packages(s.packages) for s in done if s.packages and s.packages != provenance.packages
    )
    lines += [Fact("other packages of stages", text) for text in others]
    lines.append(Fact("hardware of the stages", "; ".join(machines) or "not recorded"))
    lines.append(Fact("hardware of the report", provenance.hardware))
    lines += [Fact("image", f"sha256 {digest}") for digest in _distinct(stage.image for stage in done)]
    if jobs := _distinct(stage.job_id for stage in provenance.stages):
        lines.append(Fact("jobs", ", ".join(jobs)))
    lines.append(Fact("training seeds", ", ".join(map(str, seeds))))
    lines += [
        Fact(f"code of {module}", "; ".join(f"sha256 {digest}" for digest in digests))
        for module, digests in _own_code(provenance).items()
    ]
    lines += [Fact(name, f"sha256 {digest}") for name, digest in sorted(provenance.inputs.items())]
    lines.append(
        Fact("fingerprint", f"{fingerprint} (of all numbers but timings: two runs with it agree bit for bit)")
    )
    return lines


def _own_code(provenance: Provenance) -> dict[str, list[str]]:
    """Checksums of the user's code that stages ran with, by module."""
    found: dict[str, list[str]] = {}
    for stage in provenance.stages:
        for module, digest in stage.own_code.items():
            if digest not in found.setdefault(module, []):
                found[module].append(digest)
    return found


def _code(version: str | None, dirty: bool | None) -> str:
    return f"{version}{', with uncommitted changes' if dirty else ''}"


def _packages(packages: Any) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))


def _distinct(values: Any) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))
