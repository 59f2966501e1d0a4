"""A SuperLink answers for nodes that it has lost; each such answer is counted for the device that was asked."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.task_identity import TaskIdentity

from covey.errors import AggregationError
from federated.config import Plan
from federated.engines.home import RUN_ID, HomeGrid, failure
from federated.events import Events, read
from federated.records import answer
from federated.strategy import Crew


@pytest.fixture(autouse=True)
def _identity():
    """As the engines set it before the ServerApp runs."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, SUPERLINK_NODE_ID


class Losing(HomeGrid):
    """Knows three devices and has lost two of them."""

    def answers(self, messages, deadline):
        for message in messages:
            if self.names[message.metadata.dst_node_id] == "a":
                yield answer({"x": np.zeros(1)}, message)
                continue
            lost = failure(message, "Node Unavailable")
            lost.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
            yield lost


def test_every_lost_device_is_named_once(tmp_path):
    grid = Losing({name: {"ring": name} for name in ("a", "b", "c")})
    with Events(tmp_path) as events:
        crew = Crew(grid, Plan("pca", min_clients=1), lambda node: grid.names[node], events)
        found = crew.ask("round 1", "train", {}, {"round": 1}, lambda _: None)
    assert (sorted(found.arrays), found.refused, found.missing) == (
        ["a"],
        {"b": "Node Unavailable", "c": "Node Unavailable"},
        [],
    )
    told = [(one.kind, one.device) for one in read(tmp_path / "events.jsonl")]
    assert told == [("asked", ""), ("answered", "a"), ("refused", "b"), ("refused", "c")]


def test_a_quorum_that_is_missed_names_the_lost_devices():
    grid = Losing({name: {"ring": name} for name in ("a", "b", "c")})
    crew = Crew(grid, Plan("pca", min_clients=2), lambda node: grid.names[node])
    with pytest.raises(AggregationError, match=r"1 of 3 can be used \(b: Node Unavailable; c: Node Unavailable\)"):
        crew.ask("round 1", "train", {}, {"round": 1}, lambda _: None)
