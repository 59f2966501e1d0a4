"""Routes of devices: list, one, its scores; add, change, erase, command."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from litestar import Request, delete, get, patch, post
from litestar.params import Parameter
from msgspec import UNSET, Meta, Struct, UnsetType

from cloud.config import DEFAULT_GROUP
from cloud.console import device_view
from cloud.console.auth import actor_of
from cloud.console.context import MAX_TIME_S, After, Console, Limit, Text, changes, reads, threaded
from cloud.console.device_view import DeviceLine, DeviceWhole, Scores
from cloud.console.problems import Refused
from cloud.console.status import Status
from cloud.desk import commands, devices, erase
from cloud.learn import desired
from covey.errors import UnknownName

Name = Annotated[str, Meta(pattern="^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$")]  # of a device, or a group
Key = Annotated[str, Meta(pattern="^[a-zA-Z0-9][a-zA-Z0-9._/-]{0,63}$")]
Value = Annotated[str, Meta(max_length=256)]
Labels = Annotated[dict[Key, Value], Meta(max_length=32)]
LabelChanges = Annotated[dict[Key, Value | None], Meta(max_length=32)]
DAY_S = 86_400.0


class DevicePage(Struct):
    """Devices by name."""

    devices: list[DeviceLine]
    next: str | None


class NewDevice(Struct, forbid_unknown_fields=True):
    """A device that is named before it is first heard."""

    device: Name
    group: Name = DEFAULT_GROUP
    labels: Labels = {}


class Parameters(Struct, forbid_unknown_fields=True):
    """Null gives a parameter back to the device."""

    summary_interval_s: Annotated[float, Meta(gt=0, le=86_400)] | UnsetType | None = UNSET


class DeviceChange(Struct, forbid_unknown_fields=True):
    """What is given is changed; `labels`: set, or taken away where null, the others stay."""

    group: Name | UnsetType = UNSET
    labels: LabelChanges | UnsetType = UNSET
    state: Literal["active", "retired"] | UnsetType = UNSET
    parameters: Parameters | UnsetType = UNSET


class Confirm(Struct, forbid_unknown_fields=True):
    """The device's name once more."""

    confirm: str


class Receipt(Struct):
    """What was erased, and what the store cannot reach."""

    id: int | None
    device_sha256: str
    time_s: float
    by: str
    erased: dict[str, int]
    left: list[str]


class Order(Struct, forbid_unknown_fields=True):
    """A command."""

    kind: Literal["ping", "summarise"]


class Ordered(Struct):
    """A command on its way."""

    id: str
    expires_s: float


@get("/api/devices", **reads("viewer", name="devices"))
@threaded
def list_devices(
    console: Console,
    group: Text = None,
    status: Annotated[Status | None, Parameter(description="As the fleet's view has it now.")] = None,
    device_state: Annotated[Literal["active", "retired"] | None, Parameter(query="state")] = None,
    q: Annotated[str | None, Parameter(max_length=64, description="Part of a name.")] = None,
    limit: Limit = 100,
    after: After = None,
) -> DevicePage:
    """Devices by name."""
    found, more = device_view.page(
        console.engine,
        console.status_of,
        group=group,
        status=status,
        state=device_state,
        q=q,
        limit=limit,
        after=after,
    )
    return DevicePage(found, more)


@post("/api/devices", **changes("operator", 409, name="add_device"))
@threaded
def add_device(console: Console, request: Request[Any, Any, Any], data: NewDevice) -> DeviceWhole:
    """Name a device before it is first heard."""
    devices.add(console.engine, data.device, data.group, data.labels, actor_of(request))
    return _whole(console, data.device)


@get("/api/devices/{device:str}", **reads("viewer", 404, name="device"))
@threaded
def one_device(console: Console, device: str) -> DeviceWhole:
    """A device, whole."""
    return _whole(console, device)


@patch("/api/devices/{device:str}", **changes("operator", 404, 409, name="change_device"))
@threaded
def change_device(console: Console, request: Request[Any, Any, Any], device: str, data: DeviceChange) -> DeviceWhole:
    """Move, label, retire, set parameters."""
    actor, engine = actor_of(request), console.engine
    known = _whole(console, device)  # 404 before anything is changed
    if not isinstance(data.parameters, UnsetType) and known.desired is None:
        raise Refused(409, f"{device}: a wanted release expected, which parameters travel with; none is wanted yet")
    if not isinstance(data.parameters, UnsetType) and not isinstance(data.parameters.summary_interval_s, UnsetType):
        given = {"summary_interval_s": data.parameters.summary_interval_s}
        devices.set_parameters(engine, device, given, actor)
    if not isinstance(data.labels, UnsetType):
        devices.label(engine, device, data.labels, actor)
    if not isinstance(data.group, UnsetType):
        devices.move(engine, device, data.group, desired.known_base_url(engine), actor)
    if not isinstance(data.state, UnsetType):
        devices.set_state(engine, device, data.state, actor)
    return _whole(console, device)


@delete("/api/devices/{device:str}", status_code=200, **changes("admin", 404, 409, name="forget_device"))
@threaded
def forget_device(console: Console, request: Request[Any, Any, Any], device: str, data: Confirm) -> Receipt:
    """Erase all data of a device."""
    if data.confirm != device:
        raise Refused(409, f"confirm: {device[:64]} expected, {data.confirm[:64]!r} received")
    return Receipt(**erase.forget(console.engine, device, actor_of(request)))


@post("/api/devices/{device:str}/commands", **changes("operator", 404, 409, name="command_device"))
@threaded
def command_device(console: Console, request: Request[Any, Any, Any], device: str, data: Order) -> Ordered:
    """Give a device an order; its answer is an ordinary status event."""
    if _whole(console, device).state == "retired":
        raise Refused(409, f"{device}: an active device expected, it is retired")
    order, expires_s = commands.command(console.engine, device, data.kind, actor_of(request))
    return Ordered(order, expires_s)


@get("/api/devices/{device:str}/scores", **reads("viewer", 404, name="scores"))
@threaded
def device_scores(
    console: Console,
    device: str,
    from_s: Annotated[
        float | None, Parameter(ge=0, le=MAX_TIME_S, description="A day before `to_s` when left out.")
    ] = None,
    to_s: Annotated[float | None, Parameter(ge=0, le=MAX_TIME_S, description="After the newest when left out.")] = None,
    points: Annotated[int, Parameter(ge=1, le=5000)] = 600,
) -> Scores:
    """Scores over time."""
    end_s = device_view.newest_s(console.engine, device) + 1.0 if to_s is None else to_s
    begin_s = max(0.0, end_s - DAY_S) if from_s is None else from_s
    found = device_view.scores(console.engine, device, begin_s, end_s, points)
    if found is None:
        raise UnknownName(f"device: one that is known expected, {device[:80]!r} received")
    return found


def _whole(console: Console, device: str) -> DeviceWhole:
    found = device_view.whole(console.engine, device, console.status_of(device))
    if found is None:
        raise UnknownName(f"device: one that is known expected, {device[:80]!r} received")
    return found


ROUTES = [list_devices, add_device, one_device, change_device, forget_device, command_device, device_scores]
