"""schemathesis asks the running console whatever its OpenAPI description allows, and more: no 5xx, no answer that it does not describe."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import console_rig as rig

EXAMPLES = 4  # of each operation, beside what its description suggests


@pytest.mark.timeout(240)
def test_the_api_does_what_its_description_says(tmp_path: Path) -> None:
    url, engine = rig.new_store(tmp_path)
    rig.add_accounts(engine)
    with rig.Console(tmp_path, url, requests_per_s=100_000) as console, closing(console.logged_in("admin")) as client:
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        command = [
            str(Path(sys.executable).with_name("schemathesis")), "run", f"{console.base}/api/openapi.json",
            "--header", f"Cookie: {cookie}", "--header", f"X-CSRF-Token: {client.headers['X-CSRF-Token']}",
            "--max-examples", str(EXAMPLES), "--phases", "examples,coverage,fuzzing", "--seed", "1", "--workers", "2",
            "--exclude-path", "/api/stream", "--exclude-path", "/api/logout", "--exclude-path", "/api/me/password",
            "--exclude-path-regex", "/api/(accounts|login).*",  # they would end this very session, or leave the host
            "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
            "--request-timeout", "20", "--no-color",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=220, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    assert "23 selected" in done.stdout, done.stdout[:1500]
    engine.dispose()
