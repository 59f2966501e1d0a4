"""Flower's SuperLink in this process, with two doors: devices come in by TLS to the fleet API only, control is loopback.

`flower-superlink` serves fleet, control and runtime API on one port, and its control API asks nobody who they are: who
reaches it may register nodes and ship code to all of them. So the same application, unmodified, is served twice: outward
over TLS where only `/v1/fleet/` exists, and on loopback, where control calls must show a token that lies beside the
database. What starts ServerApps shows a secret of its own. Internals of flwr 1.41.0: `create_app`, its lifespan, the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import uvicorn
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, TRANSPORT_TYPE_GRPC_RERE
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.fab import Fab
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig, load_control_authn_plugin
from flwr.superlink.main import create_app
from msgspec import Struct

from covey.errors import UsageError
from covey.runtime import die_with_parent, write_whole
from federated.engines.flower_control import APP, TOKEN_HEADER, check_version
from federated.engines.flower_keys import SignedApp, read_app

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Scope = MutableMapping[str, Any]
    Call = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]

HOST = "127.0.0.1"
FLEET = "/v1/fleet/"
CONTROL = "/v1/control/"
_LARGEST_BODY = 64 * 1024 * 1024  # bytes of one request from outside: Flower cuts objects into chunks of 20 MB
_END_S = 5  # for requests under way when it is stopped


class SuperLinkPlan(Struct, frozen=True, forbid_unknown_fields=True):
    """What one SuperLink is."""

    database: str  # SQLite file; token, secret and Flower's own files lie beside it
    control_port: int  # on loopback
    host: str  # outward
    port: int
    cert: str
    key: str
    app: str | None = None  # signed app; None: nodes without trusted signers only
    die_with_parent: bool = False

    @property
    def folder(self) -> Path:
        """Where the database is."""
        return Path(self.database).absolute().parent

    @property
    def token_file(self) -> Path:
        """The control token."""
        return self.folder / "control.token"


def ready_file(plan: SuperLinkPlan) -> Path:
    """Written, with the process's id, when both doors are open."""
    return plan.folder / "superlink.json"


def outward(app: Call) -> Call:
    """The application as devices see it: the fleet API and nothing else."""

    async def fleet_only(
        scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http" or not _is_fleet(scope):
            await _refuse(scope, send, 404)
        elif _length(scope) > _LARGEST_BODY:
            await _refuse(scope, send, 413)
        else:
            await app(scope, receive, send)

    return fleet_only


def inward(app: Call, token: str) -> Call:
    """The application as this machine sees it: control calls must show the token."""
    expected = token.encode()

    async def guarded(
        scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] == "http" and not _is_runtime(scope):
            shown = dict(scope["headers"]).get(TOKEN_HEADER.encode(), b"")
            if not secrets.compare_digest(shown, expected):
                await _refuse(scope, send, 401)
                return
        await app(scope, receive, send)

    return guarded


def _is_fleet(scope: Scope) -> bool:
    """By both forms of the path: a router must not see another one than we do."""
    path, raw = scope["path"], scope.get("raw_path", b"")
    return path.startswith(FLEET) and (not raw or raw == path.encode()) and ".." not in path and "//" not in path


def _is_runtime(scope: Scope) -> bool:
    """What Flower protects itself: by a token for each task, and by the secret of what starts them."""
    path, raw = scope["path"], scope.get("raw_path", b"")
    return path.startswith("/v1/runtime/") and (not raw or raw == path.encode()) and ".." not in path


def _length(scope: Scope) -> int:
    """As announced; a body of unannounced length is too long."""
    told = dict(scope["headers"]).get(b"content-length", b"")
    return int(told) if told.isdigit() else _LARGEST_BODY + 1


async def _refuse(scope: Scope, send: Callable[[Any], Awaitable[None]], status: int) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
    elif scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})


class _Door(uvicorn.Server):
    """A server whose end its owner decides."""

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]  # a generator's there
        """None: the owner has them."""
        return contextlib.nullcontext()


def run(plan: SuperLinkPlan) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        UsageError: another Flower is installed, a file cannot be used, or a port is taken.
    """
    check_version()
    signed = read_app(Path(plan.app)) if plan.app is not None else None
    plan.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ["FLWR_HOME"] = str(plan.folder / "flwr")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # Flower's commands
    token = secrets.token_urlsafe(32)
    secret_file = plan.folder / "superexec.secret"
    write_whole(plan.token_file, token.encode(), 0o600)
    write_whole(secret_file, secrets.token_bytes(32), 0o600)
    ready_file(plan).unlink(missing_ok=True)
    app = create_app(_lifespan(plan, secret_file.read_bytes()), SuperLinkLifespan)
    if signed is not None:
        _keep(app.state.linkstate_factory.state(), signed)
    try:
        asyncio.run(_serve(plan, app, token, secret_file))
    finally:
        ready_file(plan).unlink(missing_ok=True)


async def _serve(plan: SuperLinkPlan, app: Any, token: str, secret_file: Path) -> None:
    shared: dict[str, Any] = {
        "log_level": "warning",
        "access_log": False,
        "timeout_graceful_shutdown": _END_S,
        "server_header": False,
    }
    inner = _Door(uvicorn.Config(inward(app, token), host=HOST, port=plan.control_port, **shared))
    outer = _Door(
        uvicorn.Config(
            outward(app),
            host=plan.host,
            port=plan.port,
            ssl_certfile=plan.cert,
            ssl_keyfile=plan.key,
            lifespan="off",  # the application begins and ends once
            **shared,
        )
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    serving = [asyncio.create_task(_open(inner, f"{HOST}:{plan.control_port}"))]
    await _opened(inner, serving[0])
    serving.append(asyncio.create_task(_open(outer, f"{plan.host}:{plan.port}")))
    await _opened(outer, serving[1])
    launcher = _start_launcher(plan, secret_file)
    told = {"pid": os.getpid(), "control": f"{HOST}:{plan.control_port}", "fleet": f"{plan.host}:{plan.port}"}
    if plan.app is not None:
        told["app"] = hashlib.sha256(read_app(Path(plan.app)).fab).hexdigest()
    write_whole(ready_file(plan), json.dumps(told).encode(), 0o600)
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait([waiting, *serving], return_when=asyncio.FIRST_COMPLETED)
    inner.should_exit = outer.should_exit = True
    launcher.terminate()
    await asyncio.gather(*serving)
    try:
        await asyncio.to_thread(launcher.wait, _END_S)
    except subprocess.TimeoutExpired:
        launcher.kill()


async def _open(door: _Door, address: str) -> None:
    try:
        await door.serve()
    except SystemExit as error:  # uvicorn's way to say that the port is taken
        raise UsageError(f"superlink: {address} cannot be listened on: is it taken?") from error


async def _opened(door: _Door, serving: asyncio.Task[None]) -> None:
    while not door.started and not serving.done():  # noqa: ASYNC110  # uvicorn sets a flag and no event
        await asyncio.sleep(0.02)
    if serving.done():
        await serving  # raises why


def _start_launcher(plan: SuperLinkPlan, secret_file: Path) -> subprocess.Popen[bytes]:
    """What starts a ServerApp for each run: our child, with its secret; it and what it starts watch us, and end with us."""
    command = ["flower-superexec", "--insecure", "--runtime-api-address", f"{HOST}:{plan.control_port}"]
    command += ["--parent-pid", str(os.getpid()), "--superexec-auth-secret-file", str(secret_file)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


def _lifespan(plan: SuperLinkPlan, secret: bytes) -> SuperLinkLifespanConfig:
    return SuperLinkLifespanConfig(
        control_address="",  # of the gRPC APIs, which are off
        health_server_address=None,
        host=HOST,
        port=plan.control_port,
        insecure=True,  # inward; outward there is TLS before it
        certificates=None,
        superexec_auth_secret=secret,
        authn_plugin=load_control_authn_plugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=str(Path(plan.database).absolute()),
        isolation="process",  # we start the launcher ourselves
        runtime_dependency_install=False,
    )


def _keep(state: Any, signed: SignedApp) -> None:
    """Store the app with its signature, in the form that nodes verify: Flower fills it for apps of its own hub only."""
    record = json.dumps({"signed_at": signed.signed_at, "signature": signed.signature})
    fab = Fab(hashlib.sha256(signed.fab).hexdigest(), signed.fab, {"valid_license": "Valid", signed.signer: record})
    state.federation_manager.ensure_default_federations_exist(flwr_aid=NOOP_FLWR_AID)
    state.store_app(
        fab=fab,
        federation_id=NOOP_FEDERATION_ID,
        app_id=APP,
        app_type=TaskType.SERVER_APP,
        added_by=NOOP_FLWR_AID,
        display_name=f"{NOOP_ACCOUNT_NAME}: rounds of learning",
    )


if __name__ == "__main__":
    given = msgspec.json.decode(sys.argv[1], type=SuperLinkPlan)
    if given.die_with_parent:
        die_with_parent()
    try:
        run(given)
    except UsageError as told:
        print(f"covey: {told}", file=sys.stderr)
        sys.exit(told.exit_code)
