"""Deliveries to real webhooks and a real mail server: signed, tried again, given up, and nobody waits for a slow one."""

from __future__ import annotations

import base64
import email
import email.policy
import hashlib
import hmac
import random
import ssl
import threading
import time
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, Session

from certificates import certificate
from cloud.store import schema, tables
from cloud.stream import mail, retry
from cloud.stream.deliver import Deliver, Due, _together
from cloud.stream.gauges import Metrics
from cloud.stream.kafka import Record
from cloud.stream.route import RouteStage
from cloud.stream.rules_file import Mailbox, Smtp, Webhook, parse, secret
from cloud.stream.webhook import Answer, Line, judged, signature
from cloud_events import OUTBOX, alarm
from covey import topics, wire
from covey.errors import ConfigError
from covey.wire_alarms import Context, Enriched, Routed, decode_routed, make_enriched
from processes import free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine

T = 1_770_000_000.0


class Hook:
    """A webhook that answers what it is told to: a status with headers, or silence (0)."""

    def __init__(
        self,
        *answers: tuple[int, dict[str, str]],
        context: ssl.SSLContext | None = None,
        keeps: bool = False,
        hangs_up: bool = False,
    ) -> None:
        """`keeps`: connections stay open; `hangs_up`: it says so and closes them after each answer all the same."""
        self.connections = 0
        hook = self
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.answers = list(answers)
        self.let_go = threading.Event()
        requests, queue, let_go = self.requests, self.answers, self.let_go

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1" if keeps or hangs_up else "HTTP/1.0"

            def setup(self) -> None:
                super().setup()
                hook.connections += 1

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                requests.append(({name.lower(): value for name, value in self.headers.items()}, content))
                status, extra = queue.pop(0) if queue else (204, {})
                if status == 0:
                    let_go.wait(30)
                    return
                self.send_response(status)
                for name, value in extra.items():
                    self.send_header(name, value)
                self.end_headers()
                self.close_connection |= hangs_up

            def do_GET(self) -> None:
                requests.append(({"method": "GET"}, b""))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", free_port()), Handler)
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def ids(self) -> list[str]:
        return [headers.get("webhook-id", "") for headers, _ in self.requests]

    def close(self) -> None:
        self.let_go.set()
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def hooks(*made: Hook) -> Iterator[None]:
    with ExitStack() as stack:
        for one in made:
            stack.callback(one.close)
        yield


def hook_of(port: int, scheme: str = "http", **more: Any) -> Webhook:
    return Webhook("hook", f"{scheme}://127.0.0.1:{port}/in?a=1", **{"timeout_s": 2.0, **more})


def post(hook: Webhook, message: str, body: bytes) -> Answer:
    with Line(hook) as line:
        return line.post(message, body)


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    """A new store on each database."""
    made = schema.open_store(store_url)
    yield made
    made.dispose()


def test_the_signature_is_that_of_the_standards_own_example() -> None:
    # standard-webhooks, tests of its reference libraries
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_webhook_can_verify_what_it_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "hook.secret"
    key = bytes(range(32))
    path.write_text(f"whsec_{base64.b64encode(key).decode()}\n")
    hook = Hook()
    with hooks(hook):
        assert post(hook_of(hook.port, secret_file=str(path)), "d1/o/1", b'{"a":1}').taken
    [(headers, content)] = hook.requests
    assert (content, headers["content-type"]) == (b'{"a":1}', "application/cloudevents+json")
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + content
    mine = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{mine}"


@pytest.mark.parametrize(
    "content", ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAAA", "whsec_no base64", "whsec_é"]
)
def test_a_secret_that_is_none_is_told_and_never_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "s"
    path.write_text(content)
    with pytest.raises(ConfigError) as told:
        secret(str(path))
    assert "MfKQ" not in str(told.value)


def test_redirects_are_not_followed() -> None:
    hook = Hook()
    hook.answers.append((307, {"Location": f"http://127.0.0.1:{hook.port}/other"}))
    with hooks(hook):
        answer = post(hook_of(hook.port), "d1/o/1", b"{}")
    assert (answer.taken, answer.again, len(hook.requests)) == (False, True, 1)


def test_messages_that_go_together_share_a_connection() -> None:
    hook = Hook((500, {"Content-Length": "0"}), keeps=True)
    with hooks(hook), Line(hook_of(hook.port)) as line:
        assert [line.post(f"d1/o/{n}", b"{}").taken for n in range(4)] == [False, True, True, True]
    assert (hook.connections, hook.ids) == (1, [f"d1/o/{n}" for n in range(4)])


def test_a_receiver_that_hangs_up_between_messages_hears_each_once() -> None:
    hook = Hook(hangs_up=True)
    with hooks(hook), Line(hook_of(hook.port)) as line:
        assert all(line.post(f"d1/o/{n}", b"{}").taken for n in range(4))
    assert (hook.connections, hook.ids) == (4, [f"d1/o/{n}" for n in range(4)])


@pytest.mark.parametrize("length", ["10", "1000000000"])
def test_an_answer_whose_rest_does_not_come_is_an_answer(length: str) -> None:
    hook = Hook((200, {"Content-Length": length}), keeps=True)
    with hooks(hook), Line(hook_of(hook.port, timeout_s=0.5)) as line:
        assert all(line.post(f"d1/o/{n}", b"{}").taken for n in range(2))
    assert hook.connections == 2


def test_tls_is_verified(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    hook = Hook(context=context)
    with hooks(hook):
        refused = post(hook_of(hook.port, "https"), "d1/o/1", b"{}")
        assert not refused.taken
        assert "CERTIFICATE_VERIFY_FAILED" in refused.error
        assert hook.requests == []
        assert post(hook_of(hook.port, "https", ca_file=str(cert)), "d1/o/1", b"{}").taken


def test_what_answers_mean() -> None:
    assert judged(202, "Accepted", None, T).taken
    gone = judged(410, "Gone", None, T)
    assert (gone.taken, gone.again) == (False, False)
    assert judged(429, "", "17", T).asked_s == 17.0
    assert judged(503, "", "Mon, 02 Feb 2026 02:40:30 GMT", T).asked_s == 30.0  # T is 02:40:00
    assert judged(500, "", "17", T).asked_s is None
    assert judged(503, "", "soon", T).asked_s is None
    assert (judged(404, "", None, T).busy, judged(503, "", None, T).busy) == (False, True)


def test_backoff_doubles_with_jitter_to_an_hour_and_ends_after_a_day() -> None:
    rng = random.Random(1)
    waits = [retry.next_try(T, T, tries, None, rng) for tries in (1, 2, 5, 12, 30) for _ in range(50)]
    for n, top in enumerate((2.0, 4.0, 32.0, 3600.0, 3600.0)):
        part = [at - T for at in waits[50 * n : 50 * n + 50] if at is not None]
        assert top / 2 <= min(part) < top * 0.6
        assert top * 0.9 < max(part) <= top
    assert retry.next_try(T, T, 1, 500.0, rng) == T + 500.0
    assert retry.next_try(T + 86_400.0, T, 1, None, rng) is None
    assert retry.next_try(T, T, 1, 90_000.0, rng) is None


RULES = """
[[rules]]
name = "all"
level = "high"
webhooks = [{names}]

"""


def routing_of(**ports: int) -> str:
    text = RULES.format(names=", ".join(f'"{name}"' for name in ports))
    for name, port in ports.items():
        text += f'[[webhooks]]\nname = "{name}"\nurl = "http://127.0.0.1:{port}/"\ntimeout_s = 1.5\n'
    return text


def route(engine: Engine, text: str, *seqs: int) -> None:
    records = []
    for seq in seqs:
        data = Enriched(alarm(f"a{seq}"), "t", T, Context(group="g"), T)
        content = make_enriched(wire.Identity("d1", OUTBOX, seq), data)
        records.append(Record(topics.ALARMS_ENRICHED, 0, seq, "d1", content, T))
    RouteStage(lambda: parse(text, "t"), engine).process("b", records)


def states(engine: Engine) -> dict[tuple[int, str], tuple[str, int]]:
    with schema.read(engine) as connection:
        rows = connection.execute(sa.select(tables.deliveries))
        return {(row.seq, row.target): (row.state, row.tries) for row in rows}


@contextmanager
def delivering(engine: Engine, text: str) -> Iterator[Metrics]:
    stop, metrics = threading.Event(), Metrics()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            Deliver(lambda: parse(text, "t"), engine, metrics, stop).run()
        except BaseException as error:  # noqa: BLE001  # told below
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield metrics
    finally:
        stop.set()
        thread.join(30)
    assert errors == []


def test_a_delivery_is_tried_until_it_is_taken_with_the_same_id_and_body(engine: Engine) -> None:
    hook = Hook((500, {}), (503, {"Retry-After": "1"}))
    text = routing_of(ops=hook.port)
    route(engine, text, 1)
    with hooks(hook), delivering(engine, text) as metrics:
        wait_for(lambda: states(engine) == {(1, "ops"): ("delivered", 3)}, 30, "the third try is taken")
    assert hook.ids == [f"d1/{OUTBOX}/1"] * 3
    assert len({content for _, content in hook.requests}) == 1
    identity, data, _ = decode_routed(hook.requests[0][1])
    assert (identity.seq, data.targets) == (1, ["ops"])
    tries = {
        sample.labels["result"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "covey_delivery_tries_total"
    }
    assert tries == {"failed": 2.0, "taken": 1.0}


def test_gone_is_given_up_and_a_target_that_left_the_rules_too(engine: Engine) -> None:
    hook = Hook((410, {}))
    route(engine, routing_of(ops=hook.port, old=hook.port), 1)
    with hooks(hook), delivering(engine, routing_of(ops=hook.port)):
        wait_for(
            lambda: states(engine) == {(1, "ops"): ("failed", 1), (1, "old"): ("failed", 0)}, 20, "both are given up"
        )
    assert len(hook.requests) == 1


def test_a_slow_target_holds_up_nobody_else(engine: Engine) -> None:
    slow, quick = Hook(*[(0, {})] * 50), Hook()
    text = routing_of(slow=slow.port, quick=quick.port)
    route(engine, text, *range(1, 41))
    with hooks(slow, quick), delivering(engine, text):
        wait_for(lambda: len(set(quick.ids)) == 40, 20, "the quick one has all")
        slow.let_go.set()
        assert all(state != "delivered" for (_, target), (state, _) in states(engine).items() if target == "slow")


def test_one_message_that_a_target_refuses_does_not_block_the_next(engine: Engine) -> None:
    hook = Hook((400, {}))
    text = routing_of(ops=hook.port)
    route(engine, text, 1, 2, 3)
    with hooks(hook), delivering(engine, text):
        wait_for(lambda: {2, 3} <= {int(one.rpartition("/")[2]) for one in hook.ids}, 20, "the next ones are tried")
    assert states(engine)[2, "ops"] == ("delivered", 1)


def test_two_instances_share_the_work_and_repeat_nothing(engine: Engine) -> None:
    hook = Hook()
    text = routing_of(ops=hook.port)
    route(engine, text, *range(1, 601))
    with hooks(hook), delivering(engine, text), delivering(engine, text):
        wait_for(lambda: {state for state, _ in states(engine).values()} == {"delivered"}, 40, "all are delivered")
    assert len(hook.ids) == len(set(hook.ids)) == 600


class Mails:
    """An SMTP server that keeps what it is sent."""

    def __init__(self, folder: Path, *, refuse: int = 0) -> None:
        self.mails: list[email.message.EmailMessage] = []
        self.logins: list[tuple[bytes, bytes]] = []
        self.refuse = refuse
        cert, key = certificate(folder)
        self.cert = cert
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)

        def login(_server: object, _session: object, _envelope: object, _how: str, data: Any) -> AuthResult:
            self.logins.append((data.login, data.password))
            return AuthResult(success=data.password == b"open sesame")

        self.port = free_port()
        self.controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            tls_context=context,
            require_starttls=True,
            authenticator=login,
            auth_required=True,
        )
        self.controller.start()

    async def handle_DATA(self, _server: object, _session: Session, envelope: Envelope) -> str:  # noqa: N802  # its name
        parsed = email.message_from_bytes(envelope.original_content or b"", policy=email.policy.default)
        self.mails.append(parsed)  # type: ignore[arg-type]  # the policy makes it one
        if self.refuse:
            self.refuse -= 1
            return "451 later"
        return "250 taken"


def mail_rules(folder: Path, mails: Mails) -> str:
    (folder / "password").write_text("open sesame\n")
    return (
        '[[rules]]\nname = "all"\nlevel = "high"\nmailboxes = ["duty"]\n'
        '[[mailboxes]]\nname = "duty"\nto = ["duty@example.org", "lead@example.org"]\n'
        f'[smtp]\nhost = "127.0.0.1"\nport = {mails.port}\nsender = "covey <covey@example.org>"\nca_file = "{mails.cert}"\n'
        f'user = "covey"\npassword_file = "{folder / "password"}"\ntimeout_s = 5\n'
    )


def test_a_burst_goes_in_one_mail_and_keeps_its_name_over_tries(tmp_path: Path, engine: Engine) -> None:
    mails = Mails(tmp_path, refuse=1)
    text = mail_rules(tmp_path, mails)
    route(engine, text, 1, 2, 3)
    try:
        with delivering(engine, text):
            wait_for(lambda: {state for state, _ in states(engine).values()} == {"delivered"}, 30, "taken")
    finally:
        mails.controller.stop()
    refused, taken = mails.mails
    assert refused["Message-ID"] == taken["Message-ID"]
    assert taken["To"] == "duty@example.org, lead@example.org"
    assert taken["Subject"] == "[covey high] 3 alarms of 1 device, first d1"
    content = taken.get_content()
    assert [f"covey cloud why d1/{OUTBOX}/{seq}" in content for seq in (1, 2, 3)] == [True] * 3
    assert mails.logins[0] == (b"covey", b"open sesame")


def test_a_mail_of_one_alarm_says_which_and_cannot_be_given_headers() -> None:
    routed = Routed(alarm(top_channel="x\nBcc: a@b"), "t", T, Context(group="g"), T, "low", "r")
    made = mail.compose(Smtp("h", "c@example.org"), Mailbox("duty", ["a@b"]), [("d1/o/1", "d1", routed)])
    assert made["Subject"] == "[covey low] d1: alarm: x Bcc: a@b"
    assert made["Bcc"] is None
    assert made["Message-ID"].endswith("@example.org>")
    assert made["Message-ID"] != mail.message_id(["d1/o/2"], "duty", "c@example.org")


def test_what_was_tried_in_one_mail_is_tried_in_one_mail() -> None:
    def due(seq: int, tries: int, next_s: float) -> Due:
        return Due(wire.Identity("d", OUTBOX, seq), "duty", tries, next_s, T, b"")

    new = [due(1, 0, T), due(2, 0, T + 1), due(3, 1, T + 2)]
    assert [one.identity.seq for one in _together(new)] == [1, 2]
    tried = [due(1, 1, T), due(2, 1, T), due(3, 1, T + 1), due(4, 0, T)]
    assert [one.identity.seq for one in _together(tried)] == [1, 2]
