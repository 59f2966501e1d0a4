"""Two consoles behind nginx, configured as docs/console.md says: TLS, live streams, who asks, and one console that dies."""

from __future__ import annotations

import re
import shutil
import ssl
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

import console_rig as rig
from certificates import Authority
from cloud.store import schema
from servers import Server, absent

DOCS = Path(__file__).resolve().parents[3] / "docs" / "console.md"
NAME = "covey.example.org"
BROWSER = "127.0.0.77"  # this machine, by an address that nginx and the consoles do not have

pytestmark = pytest.mark.timeout(240)


class Nginx(Server):
    """Debian's nginx, one process, with the documented block in it."""

    name = "nginx"

    def __init__(self, folder: Path, consoles: list[rig.Console], authority: Authority) -> None:
        super().__init__(folder)
        [block] = re.findall(r"```nginx\n(.*?)```", DOCS.read_text(), re.DOTALL)
        cert, key = authority.issue("nginx")
        servers = " ".join(f"server 127.0.0.1:{one.port};" for one in consoles)
        listen = f"listen 127.0.0.1:{self.port} ssl; ssl_certificate {cert}; ssl_certificate_key {key};"
        for documented, ours in (
            ("server 10.0.0.11:8300; server 10.0.0.12:8300;", servers),
            ("listen 443 ssl;", listen),
        ):
            assert block.count(documented) == 1
            block = block.replace(documented, ours)
        paths = "".join(
            f"{word}_temp_path {folder / word};\n" for word in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"daemon off;\nmaster_process off;\npid {folder / 'pid'};\nerror_log stderr notice;\n"
            f"events {{}}\nhttp {{\nlog_format by '$upstream_addr';\naccess_log {folder / 'by'} by;\n{paths}{block}}}\n"
        )

    def served_by(self) -> set[str]:
        """Addresses of the consoles that it has asked."""
        return set((self.folder / "by").read_text().split())

    def command(self) -> list[str]:
        # Debian's place for it is not on a plain user's path.
        binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        if binary is None:
            absent(self.name, "not installed")
        return [binary, "-p", str(self.folder), "-e", "stderr", "-c", str(self.folder / "nginx.conf")]


def test_behind_nginx_as_documented_a_browser_is_served_also_when_its_console_dies(tmp_path: Path) -> None:
    url, engine = rig.new_store(tmp_path)
    rig.add_accounts(engine)
    with schema.write(engine) as connection:
        rig.put_alarm(connection, "d1", "flight/7 a%1")
    authority = Authority(tmp_path / "ca")
    about = {"public_url": f"https://{NAME}", "trusted_proxies": ["127.0.0.1"]}
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        consoles = [stack.enter_context(rig.Console(tmp_path, url, **about)) for _ in range(2)]
        nginx = stack.enter_context(Nginx(tmp_path / "nginx", consoles, authority))
        there = httpx.HTTPTransport(
            verify=ssl.create_default_context(cafile=authority.ca), local_address=BROWSER, http2=False
        )
        browser = stack.enter_context(
            closing(httpx.Client(base_url=f"https://127.0.0.1:{nginx.port}", transport=there, timeout=30))
        )
        browser.headers["Host"] = NAME
        assert browser.get("/").status_code == 200
        browser.headers["X-Forwarded-For"] = "203.0.113.9"  # what a browser says of itself
        answer = rig.log_in(browser, "admin")
        assert answer.status_code == 200, answer.text
        assert "Secure" in answer.headers["set-cookie"]
        assert "max-age" in answer.headers["strict-transport-security"]
        audit = browser.get("/api/audit").json()["audit"]
        assert {row["address"] for row in audit if row["action"] == "login"} == {BROWSER}

        about_alarm = browser.get("/api/alarms/d1/flight%2F7%20a%251")
        assert (about_alarm.status_code, about_alarm.json()["alarm_id"]) == (200, "flight/7 a%1")

        # Live: what is judged is told to the stream while it stays open.
        cursor = browser.get("/api/fleet").json()["cursor"]
        with browser.stream("GET", f"/api/stream?cursor={cursor}") as stream:
            events = rig.events_of(stream.iter_lines())
            assert next(events)[0] == "hello"
            done = browser.post("/api/alarms/d1/flight%2F7%20a%251/verdict", json={"verdict": "acknowledged"})
            assert done.status_code == 201, done.text
            told = next(
                one for _, _, data in events for one in data.get("alarms", []) if one["alarm_id"] == "flight/7 a%1"
            )
            assert told["seen_by"] == "admin"

        [serving] = [one for one in consoles if f"127.0.0.1:{one.port}" in nginx.served_by()]
        serving.process.kill9()
        for _ in range(4):
            assert browser.get("/api/alarms/d1/flight%2F7%20a%251").json()["acknowledged_by"] == "admin"
        with browser.stream("GET", "/api/stream") as stream:
            assert next(rig.events_of(stream.iter_lines()))[0] == "hello"
        done = browser.post("/api/alarms/d1/a1/verdict", json={"verdict": "rejected"})
        assert done.status_code == 201, done.text
