"""A process that stands for all devices' ears: it counts the events that are acknowledged to them, and prints the count.

Subscribed with QoS 0, so that it costs the broker and the machine as little as it can; a duplicate counts twice.
"""

from __future__ import annotations

import argparse
import time

from gateway_mqtt import PUBLISH, Connection, message

from covey import wire


def main() -> None:
    """Count until ended; a line every tenth of a second in which something came."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--filter", required=True)
    parser.add_argument("--outbox", required=True)
    options = parser.parse_args()
    connection = Connection(options.port, "bench-acks", [options.filter])
    connection.sock.settimeout(0.1)
    events = told = 0
    at = 0.0
    print(0, flush=True)
    while True:
        try:
            for first, body in connection.packets():
                if first & 0xF0 == PUBLISH:
                    ack = wire.decode(wire.Ack, message(body, 0)[1])
                    events += sum(
                        b - a + 1 for part in ack.acks if part.outbox == options.outbox for a, b in part.ranges
                    )
        except TimeoutError:
            pass
        if events != told and time.monotonic() > at:
            told, at = events, time.monotonic() + 0.1
            print(events, flush=True)


if __name__ == "__main__":
    main()
