"""The two doors of a SuperLink, tried alone: which paths an application behind each of them ever sees."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from federated.engines.flower_superlink import inward, outward


def ask(door, path, *, raw=None, headers=(), kind="http"):
    """The status that came, and whether the application was reached."""
    seen, sent = [], []

    async def app(scope, receive, send):
        seen.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        return {"type": "http.request"}

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "path": path, "raw_path": path.encode() if raw is None else raw, "headers": list(headers)}
    asyncio.run(door(app)(scope, receive, send))
    return sent[0].get("status"), bool(seen)


LENGTH = (b"content-length", b"12")


def test_outward_the_fleet_api_is_there():
    assert ask(outward, "/v1/fleet/pull-messages", headers=[LENGTH]) == (200, True)


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("/v1/control/start-run", None),
        ("/v1/runtime/acquire-task", None),
        ("/", None),
        ("/v1/fleet", None),
        ("/v1/fleetx/pull-messages", None),
        ("/v1/fleet/../control/start-run", None),
        ("/v1/fleet/../control/start-run", b"/v1/fleet/%2e%2e/control/start-run"),
        ("/v1/fleet/pull-messages", b"/v1/fleet/pull%2dmessages"),
        ("/v1/fleet//pull-messages", None),
    ],
)
def test_outward_every_other_path_is_not(path, raw):
    assert ask(outward, path, raw=raw, headers=[LENGTH]) == (404, False)


def test_outward_a_websocket_is_closed():
    assert ask(outward, "/v1/fleet/pull-messages", headers=[LENGTH], kind="websocket") == (None, False)


@pytest.mark.parametrize("length", [b"67108865", b"-1", b"", b"1e3"])
def test_outward_a_body_too_long_or_of_no_length_is_refused(length):
    assert ask(outward, "/v1/fleet/push-object", headers=[(b"content-length", length)]) == (413, False)
    assert ask(outward, "/v1/fleet/push-object") == (413, False)


def door(app):
    return inward(app, "secret")


@pytest.mark.parametrize(
    "path", ["/v1/control/start-run", "/v1/fleet/pull-messages", "/docs", "/v1/runtime/../control/x"]
)
def test_inward_everything_but_the_runtime_asks_for_the_token(path):
    assert ask(door, path) == (401, False)
    assert ask(door, path, headers=[(b"x-covey-control", b"secre")]) == (401, False)
    assert ask(door, path, headers=[(b"x-covey-control", b"secret")]) == (200, True)


def test_inward_the_runtime_has_keys_of_its_own():
    assert ask(door, "/v1/runtime/acquire-task") == (200, True)
    assert ask(door, "/v1/runtime/acquire-task", raw=b"/v1/runtime/acquire%2dtask") == (401, False)


def test_a_device_needs_no_compiler_of_models_to_take_part():
    code = (
        "import sys, federated.engines.flower_node, federated.client_app\n"
        "print([m for m in ('onnx', 'flatbuffers', 'paho', 'confluent_kafka', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
