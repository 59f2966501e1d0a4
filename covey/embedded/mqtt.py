"""Child process: iotcore (rumqttd), the embedded MQTT 5 broker. `python -m covey.embedded.mqtt --port P`.

Everything in it is memory: kill it and sessions, queues and retained messages are gone. That is why agents keep
their rows until the gateway acknowledges them, and why the gateway publishes `desired` again.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from pathlib import Path

from covey.embedded import check_free
from covey.runtime import die_with_parent

# Segments are sized so that the router's log never overwrites unread messages (it does so silently when small).
_TOML = """id = 0

[router]
id = 0
max_connections = 10010
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10

[v5.1]
name = "covey"
listen = "{host}:{port}"
next_connection_delay_ms = 0

[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 2000
dynamic_filters = true
"""


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    die_with_parent()
    check_free("mqtt", options.host, options.port)
    from iotcore import IotCoreBroker

    for noisy in ("rumqttd", "iotcore"):  # its log costs eight times the CPU of its work
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    fd, name = tempfile.mkstemp(suffix=".toml")
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(_TOML.format(host=options.host, port=options.port))
    try:
        broker = IotCoreBroker(config_path=name)
    finally:
        Path(name).unlink()
    broker.run_forever()


if __name__ == "__main__":
    main()
