"""The SuperLink's control API: start and stop a run, what became of it, who its nodes are. Loopback only.

Flower offers this to its own command line only (3-11 s a call); its client, used directly, takes 0.2 s. It is internal to
flwr, so this file is the only one that touches it, the version is pinned, and a test starts a real run through it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal, NamedTuple

import flwr
import httpx
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.fab import Fab

from covey.errors import LinkError, UsageError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

FLWR = "1.41.0"  # whose internals these files wrap; pyproject.toml pins it
APP = "@covey/learning"
TOKEN_HEADER = "x-covey-control"  # noqa: S105  # a header's name

# The code is the installed package's, on both ends: what is shipped only says where to begin.
_PYPROJECT = b"""\
[project]
name = "learning"
version = "1.0.0"
description = "Rounds of learning; the code is that of the installed covey."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "covey"

[tool.flwr.app.components]
serverapp = "federated.server_app:app"
clientapp = "federated.client_app:app"

[tool.flwr.app.config]
job = ""
names = "{}"
engine = "flower"
"""


class Node(NamedTuple):
    """A device that the SuperLink knows."""

    id: int
    name: str  # as registered
    status: str  # registered (never came) | online | offline
    public: bytes  # PEM
    online_until_s: float


class RunState(NamedTuple):
    """What became of a run."""

    state: Literal["running", "completed", "failed", "stopped"]
    detail: str
    bytes_down: int  # of all devices, model traffic
    bytes_up: int


def check_version() -> None:
    """Refuse another Flower than the one that is wrapped here.

    Raises:
        UsageError: another version is installed.
    """
    if flwr.__version__ != FLWR:
        raise UsageError(f"flwr: version {FLWR} expected (its internals are used), {flwr.__version__} is installed")


def learning_app() -> bytes:
    """The app (a FAB, 0.7 kB) that names the ServerApp and the ClientApp of the installed package."""
    content: bytes = build_fab_from_files({"pyproject.toml": _PYPROJECT})[0]
    return content


class _Token:
    """Shows the SuperLink's own token with every call."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers[TOKEN_HEADER] = self._token
        return call_next(context)


class Control:
    """A SuperLink's control API; use it as a context.

    Attributes:
        address: host:port on loopback.
    """

    def __init__(self, address: str, token_file: Path) -> None:
        """Args: address: host:port; token_file: made by `covey federated superlink`, readable by its user only.

        Raises:
            UsageError: the token cannot be read, or another Flower is installed.
        """
        check_version()
        self.address = address
        try:
            token = token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{token_file}: the SuperLink's control token expected: {error}") from error
        self._client = ControlHttpClient.from_server_address(address, True, None, [_Token(token)])

    def __enter__(self) -> Control:  # noqa: PYI034  # Self would do, the name says more
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def start(self, config: dict[str, bool | float | int | str], signed: str | None) -> int:
        """Start a run of the app; returns its id.

        Args:
            config: run configuration: job, names, engine.
            signed: sha256 of the signed app that the SuperLink holds; None: hand over the app unsigned.

        Raises:
            LinkError: the SuperLink is out of reach or refuses.
        """
        app = b"" if signed is not None else learning_app()
        fab = Fab(signed if signed is not None else hashlib.sha256(app).hexdigest(), app, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab),
            override_config=user_config_to_proto(config),
            app_spec=APP if signed is not None else "",
        )
        with _Told(self.address):
            answer = self._client.StartRun(request)
        if not answer.HasField("run_id"):
            raise LinkError(f"superlink {self.address}: a run expected, none was started")
        return int(answer.run_id)

    def stop(self, run: int) -> None:
        """Stop a run; one that has ended is left as it is.

        Raises:
            LinkError: the SuperLink is out of reach.
        """
        if self.state(run).state == "running":
            with _Told(self.address):
                self._client.StopRun(StopRunRequest(run_id=run))

    def state(self, run: int) -> RunState:
        """What became of a run.

        Raises:
            LinkError: the SuperLink is out of reach, or knows no such run.
        """
        with _Told(self.address):
            found = self._client.ListRuns(ListRunsRequest(run_id=run)).run_dict
        if run not in found:
            raise LinkError(f"superlink {self.address}: run {run} is not known")
        one = found[run]
        if one.status.status != "finished":
            return RunState("running", "", one.bytes_sent, one.bytes_recv)
        sub: dict[str, Literal["completed", "stopped"]] = {"completed": "completed", "stopped": "stopped"}
        return RunState(sub.get(one.status.sub_status, "failed"), one.status.details, one.bytes_sent, one.bytes_recv)

    def nodes(self) -> list[Node]:
        """Registered devices, by name.

        Raises:
            LinkError: the SuperLink is out of reach.
        """
        with _Told(self.address):
            found = self._client.ListNodes(ListNodesRequest()).nodes_info
        nodes = [Node(one.node_id, one.name, one.status, one.public_key, one.online_until) for one in found]
        return sorted((one for one in nodes if one.status != "unregistered"), key=lambda node: (node.name, node.id))

    def register(self, name: str, public: bytes) -> int:
        """Let the holder of a key in, under a name; returns the node's id.

        Raises:
            UsageError: the name or the key is registered already.
            LinkError: the SuperLink is out of reach or refuses the key.
        """
        for node in self.nodes():
            if name == node.name or public == node.public:
                raise UsageError(
                    f"{name}: a device with a name and a key of its own expected, {node.name} is registered"
                )
        with _Told(self.address):
            return int(self._client.RegisterNode(RegisterNodeRequest(public_key=public, name=name)).node_id)

    def unregister(self, name: str) -> int:
        """Let a device in no more; its node is stopped within seconds. Returns the node's id.

        Raises:
            UsageError: no such device.
            LinkError: the SuperLink is out of reach.
        """
        found = [node for node in self.nodes() if node.name == name]
        if not found:
            raise UsageError(f"{name}: a registered device expected, none of that name")
        with _Told(self.address):
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=found[0].id))
        return found[0].id


class _Told:
    """Turns what goes wrong with a call into one line."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, httpx.HTTPStatusError):
            told = FlowerError.from_json(error.response.text)
            words = told.message if told is not None else f"HTTP {error.response.status_code}"
            if told is None and error.response.status_code == httpx.codes.UNAUTHORIZED:
                words = "the control token is not the one it expects"
            detail = (told.public_details or "") if told is not None else ""
            line = " ".join(f"{words} {detail}".split())
            raise LinkError(f"superlink {self._address}: refused: {line}") from error
        if isinstance(error, httpx.HTTPError):
            raise LinkError(f"superlink {self._address}: out of reach: {str(error) or type(error).__name__}") from error
        if isinstance(error, ValueError):
            raise LinkError(
                f"superlink {self._address}: an answer of Flower's control API expected: {error}"
            ) from error
