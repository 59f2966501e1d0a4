"""Children that run the embedded MQTT broker and Kafka API broker (extra `demo`). Memory only: they say so."""

from __future__ import annotations

import socket
import sys


def check_free(what: str, host: str, port: int) -> None:
    """Leave with exit code 2 and one line when the port is taken, before any broker is started."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            sys.stderr.write(f"covey: {what}: a free port expected, {host}:{port} is taken ({error.strerror})\n")
            raise SystemExit(2) from error
