"""Fixtures for every test: brokers that live as long as the session, and factories for those that a test kills.

Session brokers are shared: topics and client ids come from `servers.unique`, and nobody kills or pauses them.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import pytest

from servers import Iotcore, Kafka, Mosquitto, Postgres, Tansu

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# Seconds that a test may be thought to take, by its marker: only the order of files follows from it.
_SLOW_S, _BROKER_S, _OTHER_S = 15.0, 2.0, 0.1


@pytest.hookimpl(trylast=True)  # after pytest itself has put tests together that share a session fixture
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that the workers of `make test` end together; within a file all stays."""
    files: dict[Path, float] = {}
    for item in items:
        slow, broker = item.get_closest_marker("slow"), item.get_closest_marker("broker")
        files[item.path] = files.get(item.path, 0.0) + (_SLOW_S if slow else _BROKER_S if broker else _OTHER_S)
    items.sort(key=lambda item: (-files[item.path], str(item.path)))


class MosquittoFactory(Protocol):
    """Starts a broker that the test may kill; it is stopped after the test."""

    def __call__(self, config: str = Mosquitto.DEFAULT, port: int | None = None) -> Mosquitto: ...


class KafkaFactory(Protocol):
    """Starts a broker that the test may kill; it is stopped after the test."""

    def __call__(self, config: dict[str, str] | None = None, port: int | None = None) -> Kafka: ...


@pytest.fixture(scope="session")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as broker:
        yield broker


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with Kafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="session")
def iotcore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iotcore]:
    with Iotcore(tmp_path_factory.mktemp("iotcore")) as broker:
        yield broker


@pytest.fixture(scope="session")
def tansu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tansu]:
    with Tansu(tmp_path_factory.mktemp("tansu")) as broker:
        yield broker


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.broker)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a store that is not there yet, on each database that a store can be."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def mosquitto_factory(tmp_path: Path) -> Iterator[MosquittoFactory]:
    with ExitStack() as stack:
        started: list[Mosquitto] = []

        def start(config: str = Mosquitto.DEFAULT, port: int | None = None) -> Mosquitto:
            broker = Mosquitto(tmp_path / f"mosquitto-{len(started)}", config, port)
            started.append(stack.enter_context(broker))
            return broker

        yield start


@pytest.fixture
def kafka_factory(tmp_path: Path) -> Iterator[KafkaFactory]:
    with ExitStack() as stack:
        started: list[Kafka] = []

        def start(config: dict[str, str] | None = None, port: int | None = None) -> Kafka:
            broker = Kafka(tmp_path / f"kafka-{len(started)}", port, config)
            started.append(stack.enter_context(broker))
            return broker

        yield start
