"""Routes of releases and learning: what is wanted and what runs, steps of the loop, training runs."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, get, post
from litestar.params import Parameter
from msgspec import Meta, Struct

from cloud.console import learning_view
from cloud.console.auth import actor_of
from cloud.console.context import MAX_ID, After, Console, Limit, Text, changes, reads, threaded
from cloud.console.learning_view import LearningStep, Release, Run, RunWhole
from cloud.desk import learning
from covey.errors import UnknownName

Name = Annotated[str, Meta(pattern="^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$")]


class Releases(Struct):
    """Releases by group and number."""

    releases: list[Release]


class LearningPage(Struct):
    """Steps of the loop, newest first."""

    learning: list[LearningStep]
    next: str | None


class Runs(Struct):
    """Runs, newest first."""

    runs: list[Run]


class Wanted(Struct, forbid_unknown_fields=True):
    """Of which devices; []: of all of the group, and of those that appear in it."""

    to: Annotated[list[Name], Meta(max_length=10_000)] = []


class Assigned(Struct):
    """Of which devices it is wanted now."""

    devices: list[str]


class Started(Struct):
    """A run has been started."""

    started: bool


@get("/api/releases", **reads("viewer", name="releases"))
@threaded
def list_releases(console: Console, group: Text = None) -> Releases:
    """Releases with how many devices want and run each."""
    return Releases(learning_view.releases(console.engine, group))


@post("/api/releases/{group:str}/{number:int}/want", **changes("admin", 404, name="want_release"))
@threaded
def want_release(
    console: Console,
    request: Request[Any, Any, Any],
    group: str,
    number: Annotated[int, Parameter(ge=1, le=MAX_ID)],
    data: Wanted,
) -> Assigned:
    """Want a release of its group, or of some devices only."""
    return Assigned(learning.want(console.engine, group, number, data.to, actor_of(request)))


@get("/api/learning", **reads("viewer", name="learning"))
@threaded
def list_learning(console: Console, limit: Limit = 100, after: After = None) -> LearningPage:
    """Steps of the loop, newest first."""
    return LearningPage(*learning_view.steps(console.engine, limit, after))


@get("/api/runs", **reads("viewer", name="runs"))
@threaded
def list_runs(console: Console) -> Runs:
    """Training runs, newest first."""
    return Runs([learning_view.as_row(one) for one in learning_view.runs(console.engine)])


@get("/api/runs/{run:str}", **reads("viewer", 404, name="run"))
@threaded
def one_run(console: Console, run: str) -> RunWhole:
    """A training run with its rounds."""
    found = learning_view.run(console.engine, run)
    if found is None:
        raise UnknownName(f"run: one that is known expected, {run[:80]!r} received")
    return found


_start = changes("admin", 409, name="start_run")


@post("/api/runs", status_code=202, **_start)
async def start_run(console: Console, request: Request[Any, Any, Any]) -> Started:
    """Start a training run as configured."""
    await console.training.start(actor_of(request))
    return Started(started=True)


ROUTES = [list_releases, want_release, list_learning, list_runs, one_run, start_run]
