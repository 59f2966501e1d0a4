"""mq-bridge as a route from MQTT to Kafka: no handler, so that no message enters Python.

Set for this comparison beside its defaults: idempotence, no compression (nobody compresses here), a linger that batches
as librdkafka's own default does instead of its 100 ms, and a queue that holds as many messages as the others take at once.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from mq_bridge import Route, init_logging

PRODUCER = [
    ["enable.idempotence", "true"],
    ["compression.type", "none"],
    ["linger.ms", os.environ.get("BENCH_LINGER", "5")],
]
PRODUCER += [["retries", "2147483647"]]


def main() -> None:
    """Bridge until SIGTERM."""
    init_logging("error")
    config: dict[str, Any] = {
        "input": {
            "mqtt": {
                "url": f"tcp://{os.environ['BENCH_MQTT']}",
                "topic": os.environ["BENCH_FILTER"],
                "client_id": os.environ["BENCH_CLIENT_ID"],
                "qos": 1,
                "clean_session": False,
                "protocol": "v5",
                "queue_capacity": 2000,
                "max_inflight": 2000,
                "session_expiry_interval": 604_800,
            }
        },
        "output": {
            "kafka": {
                "url": os.environ["BENCH_KAFKA"],
                "topic": os.environ["BENCH_TOPIC"],
                "create_topic": False,
                "producer_options": PRODUCER,
            }
        },
        "batch_size": int(os.environ.get("BENCH_BATCH", "512")),
    }
    if key := os.environ.get("BENCH_PARTITION_KEY"):
        config["output"]["kafka"]["partition_key"] = key
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    route = Route.from_config(config)
    route.start()
    stop.wait()
    route.stop()
    route.join()


if __name__ == "__main__":
    main()
