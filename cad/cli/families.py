"""``cad families``: the task families that there are."""

from __future__ import annotations

from cad.cli.terminal import console, say
from cad.errors import printable


def families() -> None:
    """List the task families: this package's and those that installed packages offer.

    Example: cad families
    """
    from rich.table import Table

    from cad.envs.registry import ENTRY_POINTS, FAMILIES

    table = Table("env.name", "what it is", "class")
    for name in FAMILIES:
        try:
            about = FAMILIES[name].in_a_line()
        except ValueError as error:
            about = f"cannot be used: {error}"
        table.add_row(printable(name), printable(about), printable(FAMILIES.places[name]))
    console.print(table)
    say(
        f"Others: env.name=module:Class, or an entry point of the group {ENTRY_POINTS}; "
        "'cad doctor --family NAME' checks one."
    )
