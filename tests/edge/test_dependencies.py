"""What `pip install 'covey[edge]'` pulls onto a device: followed through the metadata of what is installed here, offline."""

from collections import deque
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Brokers, learning, building models, web, databases, and what is too large for what it would bring.
NEVER = {
    "confluent-kafka", "flwr", "onnx", "fastapi", "starlette", "flask", "aiohttp", "uvicorn", "httpx", "sqlalchemy", "scipy",
    "pydantic", "pydantic-core", "grpcio", "pandas", "matplotlib", "tensorflow", "torch", "jax",
}  # fmt: skip
DEVICES = [
    {"python_version": python, "python_full_version": f"{python}.5", "platform_machine": machine, "implementation_version": f"{python}.5"}
    for python in ("3.10", "3.11", "3.12", "3.13")
    for machine in ("aarch64", "x86_64")
]  # fmt: skip


def pulled(extras, device):
    """name -> road by which it comes, e.g. `covey > tuf > securesystemslib`; names that are not installed here end a road."""
    environment = default_environment() | device
    roads = {}
    waiting = deque([(Requirement(f"covey[{','.join(extras)}]"), ())])
    seen = set()
    while waiting:
        wanted, road = waiting.popleft()
        name = canonicalize_name(wanted.name)
        key = (name, frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        roads.setdefault(name, (*road, name))
        try:
            needed = requires(name) or []
        except PackageNotFoundError:
            continue  # for another Python; its own requirements cannot be known here
        for text in needed:
            requirement = Requirement(text)
            chosen = [environment | {"extra": extra} for extra in wanted.extras or {""}]
            if requirement.marker is None or any(requirement.marker.evaluate(one) for one in chosen):
                waiting.append((requirement, roads[name]))
    return roads


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: f"{d['python_version']}-{d['platform_machine']}")
@pytest.mark.parametrize("extras", [("edge",), ("edge", "onnx-runtime")], ids="+".join)
def test_a_device_gets_no_kafka_no_flower_no_onnx_and_no_web(device, extras):
    roads = pulled(extras, device)
    wrong = [" > ".join(roads[name]) for name in sorted(NEVER & roads.keys())]
    assert wrong == []
    assert {"covey", "numpy", "paho-mqtt", "ai-edge-litert", "tuf", "cryptography", "msgspec"} <= roads.keys()
    assert len(roads) < 45


def test_the_road_of_what_is_pulled_is_told():
    """The walk itself: it finds what other extras do bring, and by which road."""
    roads = pulled(("gateway", "federated"), DEVICES[2])
    assert roads["confluent-kafka"] == ("covey", "confluent-kafka")
    assert roads["grpcio"] == ("covey", "flwr", "grpcio")
    assert "tomli" in pulled(("edge",), DEVICES[0])  # Python 3.10
    assert "tomli" not in pulled(("edge",), {"python_version": "3.13", "python_full_version": "3.13.1"})
