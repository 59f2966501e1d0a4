"""A device learns only when its agent says that it may, or when no agent is alive."""

import json
import os
import time

import pytest

from covey.errors import DataError
from federated.own import load
from federated.permission import FRESH_S, ask


def tell(folder, word, age_s=0.0):
    path = folder / "status.json"
    path.write_text(json.dumps({"may_learn": word}))
    then = time.time() - age_s
    os.utime(path, (then, then))


def test_a_device_that_is_armed_is_not_learned_from(tmp_path):
    tell(tmp_path, "armed")
    with pytest.raises(DataError, match=r"ring\.bin: may not be learned from now: armed"):
        ask(tmp_path / "ring.bin")
    with pytest.raises(DataError, match="may not be learned from now: armed"):  # before the ring is even opened
        load({"ring": str(tmp_path / "ring.bin")}, None, None)


def test_a_device_at_rest_is_and_so_is_one_whose_agent_is_gone_or_never_was(tmp_path):
    ask(tmp_path / "ring.bin")
    tell(tmp_path, "yes")
    ask(tmp_path / "ring.bin")
    tell(tmp_path, "armed", age_s=2 * FRESH_S)
    ask(tmp_path / "ring.bin")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"may_learn": 3}'])
def test_a_torn_status_neither_permits_by_an_error_nor_ends_the_learner(tmp_path, content):
    (tmp_path / "status.json").write_bytes(content)
    if b"3" in content:
        with pytest.raises(DataError, match="now: 3"):
            ask(tmp_path / "ring.bin")
    else:
        ask(tmp_path / "ring.bin")
