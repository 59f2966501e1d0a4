"""`covey up|down|status`: the command line of the stack; the stack itself is in covey/stack.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
