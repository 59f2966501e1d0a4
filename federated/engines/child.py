"""The nursery: `python -m federated.engines.child FD` imports Flower once, then forks a child for every question.

Importing Flower takes 1.5 s, a fork 20 ms. A child is given one device's configuration (its ring) and one message over a
socket of its own, answers, and ends; it knows no other device. The nursery itself opens no ring, starts no thread, and
ends when its parent closes the control socket or ends. Frames are a length (u32, big endian) and that many bytes: first the configuration as JSON, then
the message as Flower's protobuf; back come the child's process id, then the answer.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import NoReturn

from flwr.app import Context, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage

from covey.runtime import die_with_parent
from federated.client_app import app
from federated.engines.home import RUN_ID, failure, one_line
from federated.memory import load, save

READY = b"R"
FORK = b"F"
LARGEST = 256 * 1024 * 1024  # bytes of a frame: four times the largest bundle
NICENESS = 10  # scoring on the same machine goes first


def send_frame(to: socket.socket, content: bytes) -> None:
    """Write one frame."""
    to.sendall(struct.pack(">I", len(content)) + content)


def receive_frame(source: socket.socket) -> bytes:
    """Read one frame.

    Raises:
        EOFError: the other end is gone, or it is none of ours.
    """
    (size,) = struct.unpack(">I", _exactly(source, 4))
    if size > LARGEST:
        raise EOFError(f"a frame of at most {LARGEST} bytes expected, {size} announced")
    return _exactly(source, size)


def _exactly(source: socket.socket, size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = source.recv(min(size, 1 << 20))
        if not part:
            raise EOFError("the other end is gone")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def pack_message(message: Message) -> bytes:
    """A message as Flower's protobuf."""
    content: bytes = message_to_proto(message).SerializeToString()
    return content


def unpack_message(content: bytes) -> Message:
    """The inverse of `pack_message`."""
    return message_from_proto(ProtoMessage.FromString(content))


def answer_one(line: socket.socket) -> None:
    """In the child: one device, one message, one answer."""
    send_frame(line, str(os.getpid()).encode())
    node: dict[str, bool | float | int | str] = json.loads(receive_frame(line))
    message = unpack_message(receive_frame(line))
    context = Context(RUN_ID, message.metadata.dst_node_id, node, RecordDict(), {})
    memory = Path(str(node["ring"])).with_suffix(".learned")  # beside the ring, as private as it
    try:
        load(memory, context.state)
        reply = app(message, context)
        save(memory, context.state)
    except Exception as error:  # noqa: BLE001  # a device that fails is an answer, whatever failed
        reply = failure(message, one_line(error))
    send_frame(line, pack_message(reply))


def serve(control: socket.socket) -> NoReturn:
    """Fork a child for every line that the parent passes, until the parent goes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the children
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it ends children by their id
    control.sendall(READY)
    while True:
        word, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not word or not fds:
            sys.exit(0)
        if os.fork() == 0:
            _child(control, socket.socket(fileno=fds[0]))
        os.close(fds[0])


def _child(control: socket.socket, line: socket.socket) -> NoReturn:
    code = 1
    try:
        control.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with_parent()
        os.nice(NICENESS)
        answer_one(line)
        code = 0
    except (EOFError, OSError):
        pass  # the parent gave up on us
    finally:
        os._exit(code)  # no clean-up of what the nursery owns


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
