"""The bundle server: ranges, headers, nothing outside its folder, a bounded number of threads."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from cloud.config import CloudConfig
from cloud.learn import serve
from cloud.learn.serve import Span, parse_range
from covey.errors import ConfigError, LinkError
from processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., int]]:
    root = tmp_path / "repo" / "repository"
    (root / "targets" / "g").mkdir(parents=True)
    (root / "targets" / "g" / "a.covey").write_bytes(CONTENT)
    (root / "targets" / ".hidden").write_bytes(b"no")
    (tmp_path / "repo" / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(tmp_path / "repo" / "secret")
    with ExitStack() as stack:

        def begin(**options: object) -> int:
            stop, bound, ports = threading.Event(), threading.Event(), []
            config = CloudConfig(repository_dir=str(tmp_path / "repo"), serve_port=0, **options)  # type: ignore[arg-type]
            thread = threading.Thread(
                target=serve.run, args=(config, stop, lambda port: (ports.append(port), bound.set()))
            )
            thread.start()
            stack.callback(thread.join, 10)
            stack.callback(stop.set)
            assert bound.wait(10)
            return ports[0]

        yield begin


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host=False)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-9", Span(0, 10)),
        ("bytes=90-", Span(90, 100)),
        ("bytes=-7", Span(93, 100)),
        ("bytes=-700", Span(0, 100)),
        ("bytes=5-1000", Span(5, 100)),
        ("bytes=99-99", Span(99, 100)),
        ("bytes=9-5", None),
        ("bytes=0-1,4-5", None),
        ("bytes=-", None),
        ("lines=0-1", None),
        ("bytes=a-b", None),
        (None, None),
    ],
)
def test_a_range_is_cut_to_the_file_or_ignored(header: str | None, span: Span | None) -> None:
    assert parse_range(header, 100) == span


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_outside_the_file_is_refused(header: str) -> None:
    with pytest.raises(ValueError, match="100 bytes"):
        parse_range(header, 100)


def test_whole_file_and_head(start: Callable[..., int]) -> None:
    port = start()
    status, headers, body = ask(port, "/targets/g/a.covey")
    assert (status, body) == (200, CONTENT)
    assert headers["content-length"] == str(len(CONTENT))
    assert headers["accept-ranges"] == "bytes"
    head = ask(port, "/targets/g/a.covey", "HEAD")
    assert (head[0], head[2]) == (200, b"")
    assert {n: v for n, v in head[1].items() if n != "date"} == {n: v for n, v in headers.items() if n != "date"}


def test_a_broken_download_goes_on_where_it_ended(start: Callable[..., int]) -> None:
    port = start()
    status, headers, first = ask(port, "/targets/g/a.covey", Range="bytes=0-99999")
    assert (status, headers["content-range"]) == (206, f"bytes 0-99999/{len(CONTENT)}")
    again = ask(port, "/targets/g/a.covey", Range="bytes=100000-", If_Range=headers["etag"])
    assert again[0] == 206
    assert first + again[2] == CONTENT


def test_a_part_of_another_version_is_sent_whole(start: Callable[..., int]) -> None:
    port = start()
    status, _, body = ask(port, "/targets/g/a.covey", Range="bytes=100-", If_Range='"other"')
    assert (status, body) == (200, CONTENT)


def test_range_outside_the_file_says_its_size(start: Callable[..., int]) -> None:
    status, headers, body = ask(start(), "/targets/g/a.covey", Range=f"bytes={len(CONTENT)}-")
    assert (status, headers["content-range"], body) == (416, f"bytes */{len(CONTENT)}", b"")


def test_an_unchanged_file_is_not_sent_again(start: Callable[..., int]) -> None:
    port = start()
    etag = ask(port, "/targets/g/a.covey", "HEAD")[1]["etag"]
    status, headers, body = ask(port, "/targets/g/a.covey", If_None_Match=etag)
    assert (status, headers["etag"], body) == (304, etag, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/targets",
        "/targets/",
        "/targets/g/",
        "/../secret",
        "/targets/../../secret",
        "/%2e%2e/secret",
        "/targets/%2e%2e%2f%2e%2e%2fsecret",
        "//secret",
        "/link",
        "/targets/.hidden",
        "/targets/g/a.covey/x",
        "/a%00b",
        "/none",
        "/" + "x" * 5000,
        "*",
    ],
)
def test_nothing_but_files_in_the_folder(start: Callable[..., int], path: str) -> None:
    status, _, body = ask(start(), path)
    assert (status, body) == (404, b"")


def test_other_methods_are_refused(start: Callable[..., int]) -> None:
    assert ask(start(), "/targets/g/a.covey", "DELETE")[0] == 501


def test_connections_past_the_bound_are_closed_and_room_comes_back(start: Callable[..., int]) -> None:
    port = start(serve_threads=2)
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(2)]
        third = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        assert third.recv(1) == b""  # closed at once
        for one in silent:
            one.close()

        def served() -> bool:
            try:
                return ask(port, "/targets/g/a.covey", "HEAD")[0] == 200
            except OSError:
                return False

        wait_for(served, 10, "room for a new connection")


def test_tls_serves_and_a_silent_handshake_delays_nobody(start: Callable[..., int], tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    made += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(made, check=True, capture_output=True)
    port = start(tls_cert=str(cert), tls_key=str(key))
    with socket.create_connection(("127.0.0.1", port), 10):  # says nothing
        context = ssl.create_default_context(cafile=str(cert))
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
        connection.request("GET", "/targets/g/a.covey")
        assert connection.getresponse().read() == CONTENT
        connection.close()


def test_missing_certificate_is_one_line(tmp_path: Path) -> None:
    config = CloudConfig(repository_dir=str(tmp_path), tls_cert="/none", tls_key="/none")
    with pytest.raises(ConfigError, match="tls_cert /none"):
        serve.run(config, threading.Event())


def test_taken_port_is_one_line(start: Callable[..., int], tmp_path: Path) -> None:
    config = CloudConfig(repository_dir=str(tmp_path), serve_port=start())
    with pytest.raises(LinkError, match="a free address expected"):
        serve.run(config, threading.Event())
