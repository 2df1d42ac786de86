"""The command line: one module a group of commands, one thin function a command.

These modules import late, inside the functions, so that help and mistakes in a command wait for neither
pydantic nor torch.
"""

from cad.cli.app import main

__all__ = ["main"]
