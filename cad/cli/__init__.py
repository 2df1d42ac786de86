"""The command line: one module a group of commands, one thin function a command.

These modules import late, inside the functions, so that help and mistakes in a command wait for neither
pydantic nor torch.
"""

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point; Ctrl-C ends it without a traceback also while the program is still being imported."""
    try:
        from cad.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
