"""A Flower Grid on one machine: hands out messages and counts bytes; how a device answers is the engine's.

Flower's apps run unmodified. Only this file touches what Flower keeps internal (TaskIdentity, message ids, protobuf).
"""

from __future__ import annotations

import copy
import json
import threading
import time
from abc import abstractmethod
from itertools import islice
from typing import TYPE_CHECKING, Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.app.message.message import make_message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_to_proto, recorddict_from_proto, recorddict_to_proto
from flwr.common.serde_utils import metadata_from_proto, metadata_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import Metadata as ProtoMetadata
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from covey.errors import AggregationError
from federated.memory import load, save

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from federated.config import Job

RUN_ID = 1


class HomeGrid(Grid):
    """Devices of this machine by node id 1, 2, ...

    Attributes:
        bytes_down: serialised size of all messages sent.
        bytes_up: of all answers.
    """

    engine = "home"
    at_once = 1  # devices that work at the same time

    def __init__(
        self,
        devices: Mapping[str, Mapping[str, str]],
        stop: threading.Event | None = None,
        memory: Path | None = None,
    ) -> None:
        """Keep the devices.

        Args:
            devices: name -> node configuration (`ring` or `files`).
            stop: ends the run between answers.
            memory: folder for what devices keep to themselves between rounds, so that a run can be resumed.
        """
        self.names = dict(enumerate(sorted(devices), start=1))
        self.nodes = {number: dict(devices[name]) for number, name in self.names.items()}
        self.stop = stop if stop is not None else threading.Event()
        self.bytes_down = self.bytes_up = 0
        self._run = Run.create_empty(RUN_ID)
        self._sent: dict[str, Message] = {}
        self._states: dict[int, RecordDict] = {}
        self._memory = memory
        self._count = 0

    @abstractmethod
    def answers(self, messages: list[Message], deadline: float) -> Iterable[Message]:
        """Answers of the devices asked, as far as they come before `deadline` (monotonic seconds) or stop."""

    def context(self, node: int) -> Context:
        """A device's context: its configuration, and what it kept from message to message."""
        if node not in self._states:
            self._states[node] = RecordDict()
            if self._memory is not None:
                load(self._memory / f"{node}.npz", self._states[node])
        return Context(RUN_ID, node, dict(self.nodes[node]), self._states[node], {})

    def keep(self, node: int) -> None:
        """Write down what a device keeps, after its answer; where no folder is given, it lasts as long as the grid."""
        if self._memory is not None and node in self._states and (self._states[node] or self._memory.exists()):
            save(self._memory / f"{node}.npz", self._states[node])

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message down."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """All devices."""
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Keep messages until their answers are pulled."""
        ids = []
        for message in messages:
            self._count += 1
            message.metadata.__dict__["_message_id"] = str(self._count)
            self._sent[str(self._count)] = message
            ids.append(str(self._count))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Answers of the oldest of these messages, as many as this engine runs at a time, waiting as long as they live.

        One that does not answer in that time is told as one that failed.
        """
        asked = [self._sent.pop(number) for number in islice((n for n in message_ids if n in self._sent), self.at_once)]
        replies = self._exchange(asked, None)
        heard = {reply.metadata.reply_to_message_id for reply in replies}
        late = [message for message in asked if message.metadata.message_id not in heard]
        return replies + [failure(message, f"no answer in {message.metadata.ttl:g} s") for message in late]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send and wait.

        Raises:
            AggregationError: the run was stopped.
        """
        ids = self.push_messages(messages)
        return self._exchange([self._sent.pop(number) for number in ids], timeout)

    def _exchange(self, asked: list[Message], timeout: float | None) -> list[Message]:
        self.bytes_down += sum(_sizes(asked))
        wait_s = timeout if timeout is not None else max((m.metadata.ttl for m in asked), default=0.0)
        replies = []
        for reply in self.answers(asked, time.monotonic() + wait_s):
            self.bytes_up += message_to_proto(reply).ByteSize()
            replies.append(reply)
        if self.stop.is_set():
            raise AggregationError("training was stopped; --resume goes on from the last whole round")
        return replies


class _Decoded(Array):
    """An array of a message to many, decoded once for all of them: `numpy()` gives one array that nobody may write to."""

    def __init__(self, array: Array) -> None:
        super().__init__(array.dtype, array.shape, array.stype, array.data)
        self._numpy: NDArray[Any] | None = None

    def numpy(self) -> NDArray[Any]:
        if self._numpy is None:
            self._numpy = super().numpy()
            self._numpy.flags.writeable = False
        return self._numpy


def handed(messages: Iterable[Message]) -> Iterator[Message]:
    """Messages as devices of this process are given them.

    Each has records of its own, so that what a device changes in its message does not reach the next one; the arrays in
    them, which are bytes, are shared by all messages with one content.
    """
    content: RecordDict | None = None
    records: dict[str, ArrayRecord | ConfigRecord] = {}
    for message in messages:
        if message.content is not content:
            content = message.content
            records = {**content.config_records}
            for name, record in content.array_records.items():
                records[name] = shared = ArrayRecord()
                shared.update({part: _Decoded(array) for part, array in record.items()})
        own = RecordDict({name: record.copy() for name, record in records.items()})
        yield make_message(copy.copy(message.metadata), own)


def _sizes(messages: Iterable[Message]) -> Iterator[int]:
    """Serialised bytes of each message; a content that many carry is serialised once."""
    content: RecordDict | None = None
    content_bytes = 0
    for message in messages:
        head = ProtoMessage(metadata=metadata_to_proto(message.metadata)).ByteSize()
        if message.content is not content:
            content = message.content
            content_bytes = ProtoMessage(content=recorddict_to_proto(content)).ByteSize()
        yield head + content_bytes


def pack_content(content: RecordDict) -> bytes:
    """What many messages may carry, as Flower's protobuf."""
    packed: bytes = recorddict_to_proto(content).SerializeToString()
    return packed


def unpack_content(packed: bytes) -> RecordDict:
    """The inverse of `pack_content`."""
    return recorddict_from_proto(ProtoRecordDict.FromString(packed))


def pack_head(message: Message) -> bytes:
    """A message without its content, as Flower's protobuf."""
    packed: bytes = metadata_to_proto(message.metadata).SerializeToString()
    return packed


def unpack_head(packed: bytes, content: RecordDict) -> Message:
    """A message of that head and content, which is not copied."""
    return make_message(metadata_from_proto(ProtoMetadata.FromString(packed)), content)


def failure(to: Message, reason: str) -> Message:
    """The answer of a device that failed."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=to)


def one_line(error: BaseException) -> str:
    """What a device tells about its failure."""
    from covey.errors import CoveyError

    return str(error) if isinstance(error, CoveyError) else f"{type(error).__name__}: {error}"


def run_server(grid: HomeGrid, job: Job) -> None:
    """Run the unmodified ServerApp on a grid of this machine; its report is in the checkpoint folder."""
    from federated.config import write_struct
    from federated.server_app import app

    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, SUPERLINK_NODE_ID
    names = json.dumps({str(node): name for node, name in grid.names.items()})
    config: dict[str, bool | float | int | str] = {"job": write_struct(job), "names": names, "engine": grid.engine}
    app(grid, Context(RUN_ID, SUPERLINK_NODE_ID, {}, RecordDict(), config))
