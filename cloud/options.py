"""Options that several of the cloud's commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Store = Annotated[
    str | None,
    typer.Option("--store", envvar="COVEY_CLOUD_STORE", help="SQLite file or SQLAlchemy URL."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
