"""One device's ClientApp for one message, in a process of its own that knows no other device's ring.

Started by engines/local.py from a fork server that has imported Flower once: importing it takes 1.5 s, a fork 20 ms.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from flwr.app import Context, RecordDict

from covey.runtime import die_with_parent
from federated.client_app import app
from federated.engines.home import RUN_ID, failure, one_line

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from flwr.app import Message


def answer_one(sender: Connection, message: Message, node: dict[str, str]) -> None:
    """Answer a message on behalf of the device whose configuration is `node`, then end.

    Args:
        sender: takes the answer.
        message: of the server.
        node: `ring` of this device, and nothing about others.
    """
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it ends us by our id
    os.nice(10)  # scoring on the same machine goes first
    context = Context(RUN_ID, message.metadata.dst_node_id, dict(node), RecordDict(), {})
    try:
        reply = app(message, context)
    except Exception as error:  # noqa: BLE001  # a device that fails is an answer, whatever failed
        reply = failure(message, one_line(error))
    sender.send(reply)
    sender.close()
