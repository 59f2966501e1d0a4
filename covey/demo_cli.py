"""`covey demo`: the command line of the story; the story itself is in covey/demo.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
