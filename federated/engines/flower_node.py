"""Flower's SuperNode in this process, for one device and as long as it is needed: joins, answers, and leaves after the run.

`flower-supernode` stays for ever and does not say when a run is over. So its own function runs here, a listener reads from
its log records which node and run it is, and a watcher asks the SuperLink's fleet API whether that run still goes on. What
starts ClientApps is our own child with a secret of its own; it watches this process and ends with it, and so does every
ClientApp. Internals of flwr 1.41.0: `start_client_internal`, its HTTP application, its log records, the fleet client.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import uvicorn
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.exit import add_exit_handler
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.main import create_app
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from flwr.supernode.nodestate import NodeStateFactory
from flwr.supernode.start_client_internal import start_client_internal
from msgspec import Struct

from covey.errors import LinkError, ProcessError, UsageError
from covey.processes import free_port
from covey.runtime import write_whole
from federated.engines.flower_control import check_version
from federated.engines.flower_keys import read_node_key, read_signers

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric import ec
    from flwr.supercore.protobuf.client import ProtobufClientInterceptor

HOST = "127.0.0.1"
_ASK_S = 3.0  # between two questions whether the run goes on
_START_S = 60.0  # importing Flower on a slow, busy machine
_NOISE = ("flwr", "uvicorn", "httpx")
_NOT_KNOWN = int(ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED)


class NodePlan(Struct, frozen=True, forbid_unknown_fields=True):
    """How a device takes part."""

    superlink: str  # host:port of its fleet API
    ring: str
    key: str
    ca: str
    home: str  # folder for Flower's files; may be emptied
    signers: list[str] = []  # public keys; []: every app of this SuperLink is run
    wait_s: float = 300.0  # for the first question
    idle_s: float = 120.0  # after the last answer, where the SuperLink does not say that the run is over
    deadline_s: float = 3600.0  # of it all


class _Record:
    """What the SuperNode's log says of its work; a `logging.Handler`'s target."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.node: int | None = None
        self.run: int | None = None
        self.answers = 0
        self.at_work = False
        self.last_s = time.monotonic()
        self.error = ""

    def note(self, record: logging.LogRecord) -> None:
        """One line of its log."""
        line = record.getMessage()
        with self.lock:
            if record.levelno >= logging.ERROR:
                self.error = line
            if found := re.match(r"SuperNode ID: (\d+)", line):
                self.node = int(found[1])
            elif found := re.match(r"\[RUN (\d+)", line):
                self.run = int(found[1])
            elif line.startswith("Receiving: "):
                self.at_work, self.last_s = True, time.monotonic()
            elif line.startswith("Sent successfully"):
                self.at_work, self.last_s = False, time.monotonic()
                self.answers += 1
            elif line.startswith(("Failed to send", "Failed to receive", "Run ID ")):
                self.at_work, self.last_s = False, time.monotonic()


class _Listener(logging.Handler):
    def __init__(self, record: _Record, say: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._record, self._say = record, say

    def emit(self, record: logging.LogRecord) -> None:
        self._record.note(record)
        line = record.getMessage().strip()
        if line and record.name == "flwr" and not line.startswith("Exit Code"):
            self._say(line)


def take_part(plan: NodePlan, say: Callable[[str], None]) -> int:
    """Join, answer until the run is over, leave; returns how many questions were answered.

    Runs in the main thread and installs Flower's handlers for SIGINT and SIGTERM: both leave in order.

    Raises:
        UsageError: a key or certificate cannot be used, or another Flower is installed.
        LinkError: the SuperLink refuses this device, cannot be reached, or asked nothing in time.
        ProcessError: what starts ClientApps did not stay up.
    """
    check_version()
    key, signers = read_node_key(Path(plan.key)), read_signers([Path(one) for one in plan.signers])
    try:
        Path(plan.ca).read_bytes()
    except OSError as error:
        raise UsageError(f"{plan.ca}: the SuperLink's CA expected: {error.strerror}") from error
    os.environ["FLWR_HOME"] = plan.home
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # Flower's commands
    record = _Record()
    _listen(record, say)
    secret_file = Path(plan.home) / "superexec.secret"
    write_whole(secret_file, secrets.token_bytes(32), 0o600)
    state = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
    port = free_port()
    server = _serve(state, secret_file.read_bytes(), port)
    launcher = _start_launcher(port, secret_file)
    watcher = _Watcher(plan, record, launcher, key)
    threading.Thread(target=watcher.run, name="watcher", daemon=True).start()
    try:
        start_client_internal(
            state_factory=state,
            server_address=plan.superlink,
            node_config={"ring": plan.ring},
            root_certificates=plan.ca,
            insecure=False,
            authentication_keys=(key, key.public_key()),
            max_wait_time=plan.wait_s,
            isolation="process",  # we start the launcher ourselves
            runtime_api_address=f"{HOST}:{port}",
            trusted_entities=signers or None,
            runtime_dependency_install=False,
        )
    except SystemExit as error:  # Flower's only way to end
        if error.code not in (0, None) and not watcher.why_over:
            raise LinkError(_refusal(record.error, plan)) from error
    finally:
        server.should_exit = True
        _end(launcher)
        secret_file.unlink(missing_ok=True)
    if watcher.fault is not None:
        raise watcher.fault
    say(f"left: {watcher.why_over or 'told to'}; {record.answers} questions answered")
    return record.answers


class _Watcher:
    """Decides when this device leaves, and then has this process end itself in order."""

    def __init__(
        self, plan: NodePlan, record: _Record, launcher: subprocess.Popen[bytes], key: ec.EllipticCurvePrivateKey
    ) -> None:
        self._plan, self._record, self._launcher, self._key = plan, record, launcher, key
        self.why_over = ""
        self.fault: LinkError | ProcessError | None = None

    def run(self) -> None:
        """Until there is a reason to leave."""
        began_s = time.monotonic()
        while not self.why_over:
            time.sleep(_ASK_S if self._record.run is not None else 0.5)
            self.why_over = self._reason(time.monotonic() - began_s)
        os.kill(os.getpid(), signal.SIGTERM)  # Flower's handler deactivates the node

    def _reason(self, spent_s: float) -> str:
        plan, record = self._plan, self._record
        if self._launcher.poll() is not None:
            self.fault = ProcessError("learner", f"flower-superexec ended with {self._launcher.returncode}")
            return str(self.fault)
        if spent_s > plan.deadline_s:
            return f"{plan.deadline_s:g} s are over"
        with record.lock:
            run, node, at_work, quiet_s = record.run, record.node, record.at_work, time.monotonic() - record.last_s
        if run is None or node is None:
            return self._unasked(spent_s)
        if at_work or quiet_s <= _ASK_S:
            return ""
        if quiet_s > plan.idle_s:
            return f"no question for {plan.idle_s:g} s"
        return "" if self._goes_on(node, run) else "the run is over"

    def _unasked(self, spent_s: float) -> str:
        plan = self._plan
        if spent_s <= plan.wait_s:
            return ""
        self.fault = LinkError(f"superlink {plan.superlink}: a question within {plan.wait_s:g} s expected, none came")
        return str(self.fault)

    def _goes_on(self, node: int, run: int) -> bool:
        """Whether the SuperLink still has the run under way; yes while it does not say."""
        interceptors: list[ProtobufClientInterceptor] = [
            RuntimeVersionHttpInterceptor("SuperNode"),
            NodeAuthHttpInterceptor(self._key, self._key.public_key()),
        ]
        try:
            with FleetHttpClient.from_server_address(
                self._plan.superlink, False, self._plan.ca, interceptors
            ) as client:
                client.GetRun(GetRunRequest(node=Node(node_id=node), run_id=run))
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.UNAUTHORIZED:
                self.fault = LinkError(
                    f"superlink {self._plan.superlink}: the key {self._plan.key} was taken from its list"
                )
                return False
            return error.response.status_code != httpx.codes.FORBIDDEN
        except httpx.HTTPError:
            return True
        return True


def _serve(state: NodeStateFactory, secret: bytes, port: int) -> uvicorn.Server:
    """The node's own API, which its ClientApps use; on loopback."""
    app = create_app(state_factory=state, superexec_auth_secret=secret)
    server = uvicorn.Server(uvicorn.Config(app, host=HOST, port=port, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, name="node-api", daemon=True)
    thread.start()
    deadline = time.monotonic() + _START_S
    while thread.is_alive() and not server.started:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    if not server.started:
        raise ProcessError("learner", f"the node's API on {HOST}:{port} expected, it did not come up")

    def close() -> None:
        server.should_exit = True
        thread.join(2.0)

    add_exit_handler(close)
    return server


def _start_launcher(port: int, secret_file: Path) -> subprocess.Popen[bytes]:
    """What starts a ClientApp for each question; it and what it starts watch us, and end with us."""
    command = ["flower-superexec", "--insecure", "--runtime-api-address", f"{HOST}:{port}"]
    command += ["--parent-pid", str(os.getpid()), "--superexec-auth-secret-file", str(secret_file)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _end(launcher: subprocess.Popen[bytes]) -> None:
    launcher.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        launcher.wait(1.5)  # Flower ends the process by force 5 s after it began to leave
        return
    launcher.kill()
    launcher.wait()


def _listen(record: _Record, say: Callable[[str], None]) -> None:
    listener = _Listener(record, say)
    for name in _NOISE:
        logger = logging.getLogger(name)
        logger.handlers = [listener] if name == "flwr" else []
        logger.propagate = False


def _refusal(error: str, plan: NodePlan) -> str:
    """One line for what Flower says in six."""
    if f"[code: {_NOT_KNOWN}]" in error:
        return (
            f"superlink {plan.superlink}: refused: the key {plan.key} is not registered there "
            "(covey federated keys register, on the SuperLink's machine)"
        )
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    told = " ".join(line for line in lines if not line.startswith(("Exit Code", "For more information")))
    return f"superlink {plan.superlink}: {told or 'Flower ended without a word'}"
