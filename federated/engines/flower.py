"""Engine `flower`: the same ServerApp, run by a SuperLink for devices that joined it; this file asks, watches and stops.

The SuperLink is one that runs already, or a child of this run. Flower itself waits for ever for devices that do not come,
and fails a run whose SuperLink was killed: so the waiting, the deadline and the going on (`--resume`, from our checkpoints)
are ours. The ServerApp writes its files on this machine.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Struct

from covey.errors import AggregationError, LinkError, ProcessError, UsageError
from covey.processes import Children, free_port
from covey.runtime import write_whole
from federated.config import Job, write_struct
from federated.engines.flower_control import Control
from federated.engines.flower_keys import Tls, hosts_of, own_tls, read_app

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from federated.engines.flower_control import Node, RunState
    from federated.server_app import Report

_STEP_S = 0.5
_START_S = 120.0  # importing Flower on a slow, busy machine
_AWAY_S = 60.0  # a SuperLink that is being started again
_ROOM_S = 60.0  # beside a message round's own time-out: processes start, messages pass
_STOPPED = "training was stopped; --resume goes on from the last whole round"
_SAID = "ServerApp failed with exception: "


class Link(Struct, frozen=True):
    """Which SuperLink, and how long to be patient.

    Attributes:
        folder: where its database, token and `superlink.json` are.
        own: start it as a child.
        host: outward address of a child.
        port: of it; 0: any free one.
        names: host names and addresses that devices call a child by; its own certificate is made for them.
        cert: PEM files in place of an own CA.
        key: of `cert`.
        app: signed app of a child.
        wait_s: for devices to come.
        deadline_s: of the whole run; None: from the rounds and their time-outs.
    """

    folder: str
    own: bool = True
    database: str = "superlink.db"
    host: str = "0.0.0.0"  # noqa: S104  # devices come from elsewhere, and only the fleet API is there
    port: int = 9092
    names: list[str] = []
    cert: str | None = None
    key: str | None = None
    app: str | None = None
    wait_s: float = 300.0
    deadline_s: float | None = None


class Found(NamedTuple):
    """A SuperLink that runs."""

    control: str  # host:port
    fleet: str
    token_file: Path
    app: str | None  # sha256 of the signed app that it holds


def run(job: Job, link: Link, stop: threading.Event, say: Callable[[str], None]) -> Report:
    """Train over a SuperLink's devices; the report as the ServerApp wrote it, with the traffic that the SuperLink counted.

    Raises:
        AggregationError: too few devices came, the run failed (its own words), took too long, or was stopped.
        LinkError, ProcessError: the SuperLink is out of reach or ended.
        UsageError: what was given cannot be used.
    """
    from federated.training import read_report

    paths = {"out": _absolute(job.out), "checkpoint": _absolute(job.checkpoint)}
    paths |= {"initial": _absolute(job.initial)} if job.initial is not None else {}
    job = msgspec.structs.replace(job, **paths)
    report_path = Path(job.checkpoint) / "report.json"
    with _superlink(link, stop, say) as (found, check), Control(found.control, found.token_file) as control:
        nodes = _wait_for_devices(control, job, link, stop, check, say)
        report_path.unlink(missing_ok=True)
        names = json.dumps({str(node.id): node.name for node in nodes})
        number = control.start({"job": write_struct(job), "names": names, "engine": "flower"}, found.app)
        say(f"run {number} started")
        state = _watch(control, number, job, link, stop, check)
        report = read_report(Path(job.checkpoint))
        devices = max(len([node for node in nodes if node.status == "online"]), 1)
        report = msgspec.structs.replace(
            report,
            bytes_down_per_device=state.bytes_down // devices,
            bytes_up_per_device=state.bytes_up // devices,
        )
        write_whole(report_path, msgspec.json.encode(report))
    return report


def find(folder: Path) -> Found:
    """The SuperLink that keeps its database in a folder.

    Raises:
        UsageError: none runs there.
    """
    path = folder / "superlink.json"
    try:
        told = json.loads(path.read_bytes())
        return Found(told["control"], told["fleet"], folder / "control.token", told.get("app"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: a running SuperLink expected (covey federated superlink): {error}") from error


def superlink_words(link: Link, *, die_with_parent: bool) -> tuple[list[str], Path]:
    """Command line of a SuperLink, and the file that it writes when it is ready; makes the certificate if none is given.

    Raises:
        UsageError: certificate or signed app cannot be used.
    """
    folder = Path(link.folder).absolute()
    if (link.cert is None) != (link.key is None):
        raise UsageError("--cert and --key: both or neither expected")
    if link.cert is not None and link.key is not None:
        tls = Tls("", _absolute(link.cert), _absolute(link.key))
        missing = set(link.names) - hosts_of(Path(link.cert))
        if missing:
            raise UsageError(f"{link.cert}: a certificate for {', '.join(sorted(missing))} expected, it names others")
    else:
        tls = own_tls(folder / "tls", link.names or ["127.0.0.1", "localhost"])
    if link.app is not None:
        read_app(Path(link.app))
    plan = {
        "database": str(folder / link.database),
        "control_port": free_port(),
        "host": link.host,
        "port": link.port or free_port(),
        "cert": tls.cert,
        "key": tls.key,
        "app": _absolute(link.app) if link.app is not None else None,
        "die_with_parent": die_with_parent,
    }
    # -P: a folder named federated where the user stands must not be taken for us.
    words = [sys.executable, "-P", "-m", "federated.engines.flower_superlink", json.dumps(plan)]
    return words, folder / "superlink.json"


@contextmanager
def _superlink(
    link: Link, stop: threading.Event, say: Callable[[str], None]
) -> Iterator[tuple[Found, Callable[[], None]]]:
    """The SuperLink, and what tells whether it still runs."""
    folder = Path(link.folder).absolute()
    if not link.own:
        yield find(folder), lambda: None
        return
    words, ready = superlink_words(link, die_with_parent=True)
    ready.unlink(missing_ok=True)
    children = Children(folder / "logs")
    children.start("superlink", words)
    try:
        children.wait_until(ready.exists, _START_S, "superlink", stop)
        found = find(folder)
        say(f"superlink: devices join at {found.fleet}, its CA is {folder / 'tls' / 'ca.pem'}")
        yield found, children.check
    finally:
        children.stop()


def _wait_for_devices(
    control: Control,
    job: Job,
    link: Link,
    stop: threading.Event,
    check: Callable[[], None],
    say: Callable[[str], None],
) -> list[Node]:
    """All registered devices, once every one of them is there, or enough are when the time is up."""
    wanted = max(job.plan.min_clients, 1)
    deadline = time.monotonic() + link.wait_s
    told = -1
    while True:
        check()
        nodes = control.nodes()
        here = [node for node in nodes if node.status == "online"]
        if len(here) != told:
            told = len(here)
            say(f"{told} of {len(nodes)} registered devices have joined")
        if here and len(here) >= wanted and (len(here) == len(nodes) or time.monotonic() > deadline):
            return nodes
        if time.monotonic() > deadline:
            away = ", ".join(node.name for node in nodes if node.status != "online")
            raise AggregationError(
                f"devices: at least {wanted} expected to join within {link.wait_s:g} s, {len(here)} did"
                + (f" (not: {away[:200]})" if away else "; none other is registered")
            )
        if stop.wait(_STEP_S):
            raise AggregationError("training was stopped before a round began")


def _watch(
    control: Control, number: int, job: Job, link: Link, stop: threading.Event, check: Callable[[], None]
) -> RunState:
    """The run's end, if it is a good one."""
    limit_s = link.deadline_s or (job.plan.rounds + 4) * (job.plan.timeout_s + _ROOM_S)
    deadline = time.monotonic() + limit_s
    seen_s = time.monotonic()
    with ExitStack() as stack:
        while True:
            try:
                check()
                state = control.state(number)
                seen_s = time.monotonic()
            except ProcessError as error:
                told = "it ended during the run; --resume goes on from the last whole round"
                raise ProcessError("superlink", told) from error
            except LinkError:
                if time.monotonic() - seen_s > _AWAY_S:
                    raise
                if stop.wait(_STEP_S):
                    raise AggregationError(_STOPPED) from None
                control = _again(control, link, stack)
                continue
            if state.state == "completed":
                return state
            if state.state != "running":
                raise AggregationError(_why(number, state))
            if stop.is_set() or time.monotonic() > deadline:
                control.stop(number)
                if stop.is_set():
                    raise AggregationError(_STOPPED)
                raise AggregationError(f"run {number}: an end within {limit_s:g} s expected, it was stopped")
            stop.wait(_STEP_S)


def _again(control: Control, link: Link, stack: ExitStack) -> Control:
    """The control API of a SuperLink that was started again: it has another port and another token."""
    try:
        found = find(Path(link.folder).absolute())
        return (
            control
            if found.control == control.address
            else stack.enter_context(Control(found.control, found.token_file))
        )
    except UsageError:
        return control  # not there yet


def _why(number: int, state: RunState) -> str:
    """One line for a run that did not end well."""
    detail = " ".join(state.detail.split())
    if _SAID in detail:
        return detail.split(_SAID, 1)[1]
    return f"run {number}: {state.state} by the SuperLink ({detail or 'no reason told'}); --resume goes on from the last whole round"


def _absolute(path: str) -> str:
    return str(Path(path).absolute())
