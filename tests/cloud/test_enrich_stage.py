"""The stage `enrich` on a real store: context, models, dead letters, a store that is away."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sqlalchemy as sa
from onnx import TensorProto, helper

from cloud.config import CloudConfig, EnrichModel
from cloud.store import schema, tables
from cloud.stream import watched
from cloud.stream.deadline import Deadline, LateError
from cloud.stream.enrich import EnrichStage
from cloud.stream.kafka import Record
from cloud.stream.model import Model
from cloud_events import DIGEST, OUTBOX, alarm, body
from covey import topics, wire
from covey.errors import ConfigError
from covey.wire_alarms import Context, decode_enriched
from processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine

T = 1_770_000_000.0
DAY_S = 86_400.0


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    """A new store on each database."""
    made = schema.open_store(store_url)
    yield made
    made.dispose()


def record(content: bytes, key: str = "d1", received_s: float = T, offset: int = 0) -> Record:
    return Record(topics.ALARMS, 0, offset, key, content, received_s)


def put(engine: Engine, table: sa.Table, **values: Any) -> None:
    with schema.write(engine) as connection:
        connection.execute(sa.insert(table).values(**values))


def put_device(engine: Engine, name: str, seen_s: float = T, group: str = "mine", **more: Any) -> None:
    put(engine, tables.devices, device=name, group=group, first_seen_s=T - 30 * DAY_S, last_seen_s=seen_s, **more)


def put_alarm(engine: Engine, device: str, alarm_id: str, received_s: float, state: str = "end", **more: Any) -> None:
    row = {
        "outbox": OUTBOX,
        "begin_seq": 1,
        "begin_s": received_s,
        "end_s": received_s + 10,
        "received_s": received_s,
        "score": 3.0,
        "peak_score": 3.0,
        "threshold": 2.0,
        "confidence": 0.9,
        "top_channel": "motor.m1",
        "attribution": "[]",
        "windows": 1,
        "window_sha256": "",
        "release": 1,
        "digest": "",
        "calibration": "",
        "runtime": "",
        "flight": "",
        "trace_id": "",
    }
    put(engine, tables.alarms, device=device, alarm_id=alarm_id, state=state, **{**row, **more})


def stage_of(engine: Engine, failed: list[int] | None = None, **config: Any) -> EnrichStage:
    return EnrichStage(CloudConfig(**config), engine, (failed if failed is not None else []).append)


def contexts(stage: EnrichStage, *records: Record) -> list[Context]:
    made = stage.process("b", records)
    assert all(one.topic == topics.ALARMS_ENRICHED for one in made.messages)
    return [decode_enriched(one.value)[1].context for one in made.messages]


def test_an_alarm_goes_on_with_its_identity_its_trace_and_what_the_fleet_was_like(engine: Engine) -> None:
    put_device(engine, "d1", labels='{"site":"north"}', drift_psi=0.4)
    put_device(engine, "d2")
    put_device(engine, "d3", seen_s=T - 601)  # not heard of late
    put_device(engine, "d4", state="retired")
    put_device(engine, "d5")
    put_device(engine, "e1", group="other")
    put_alarm(engine, "d2", "x", T - 30, state="begin")
    put_alarm(engine, "d5", "x", T - 50, top_channel="acc.z")
    put_alarm(engine, "e1", "x", T - 5)
    put_alarm(engine, "d1", "old", T - 3 * DAY_S, verdict="rejected", verdict_s=T - 2 * DAY_S)
    put_alarm(engine, "d1", "older", T - 40 * DAY_S, verdict="rejected", verdict_s=T - 39 * DAY_S)
    put_alarm(engine, "d1", "new", T - 3600, verdict="confirmed", verdict_s=T - 60)
    put(
        engine,
        tables.releases,
        group="mine",
        number=1,
        digest=DIGEST,
        target="t",
        size_bytes=1,
        created_s=T - 1000,
        note="",
        wide=True,
    )
    content = json.loads(body(7, alarm("mine-1")))
    content["traceparent"] = f"00-{'a' * 32}-{'b' * 16}-01"
    made = stage_of(engine).process("b", [record(json.dumps(content).encode())])
    [message] = made.messages
    identity, data, trace = decode_enriched(message.value)
    assert (message.key, message.traceparent, trace) == ("d1", content["traceparent"], content["traceparent"])
    assert identity == wire.Identity("d1", OUTBOX, 7)
    assert (data.alarm, data.alarm_time, data.received_s) == (alarm("mine-1"), content["time"], T)
    found = data.context
    assert (found.group, found.labels, found.drift_psi) == ("mine", {"site": "north"}, 0.4)
    assert (found.peers, found.peers_alarming, found.peers_same_channel) == (2, 2, 1)
    # One alarm of the group's last week lies before its last hour: 10 s and a minute to both sides, 130 s of the week less an
    # hour of four active devices, heard or not; times two peers.
    assert found.lift == pytest.approx(3 / (1 + 2 * 130 / (4 * (7 * DAY_S - 3600))))
    assert (found.alarms_24h, found.alarms_7d, found.confirmed_30d, found.rejected_30d) == (1, 2, 1, 1)
    assert (found.score_ratio, found.release_age_s, found.stale) == (1.5, 1000.0, False)
    assert made.results == {"enriched": 1}


def test_alarms_of_one_batch_see_each_other_before_the_store_has_them(engine: Engine) -> None:
    for n in range(1, 5):
        put_device(engine, f"d{n}")
    batch = [record(body(1, alarm(f"a{n}"), device=f"d{n}"), f"d{n}", T + n) for n in range(1, 4)]
    stage = stage_of(engine)
    assert [one.peers_alarming for one in contexts(stage, *batch)] == [2, 2, 2]
    [later] = contexts(stage, record(body(1, alarm("a4"), device="d4"), "d4", T + 10))
    assert later.peers_alarming == 3
    [much_later] = contexts(stage, record(body(2, alarm("b4"), device="d4"), "d4", T + 500))
    assert much_later.peers_alarming == 0


def test_what_is_no_alarm_is_a_dead_letter_and_blocks_nobody(engine: Engine) -> None:
    made = stage_of(engine).process(
        "b", [record(b"{"), record(body(1)), record(body(2, alarm()), key="d9"), record(body(3, alarm()))]
    )
    letters = [wire.decode(wire.DeadLetter, one.value) for one in made.messages if one.topic == topics.DEADLETTER]
    assert [one.reason for one in letters] == ["not_json", "unknown_type", "source_mismatch"]
    assert letters[0].topic == topics.ALARMS
    assert made.results == {"enriched": 1, "refused": 3}


def test_a_store_that_is_away_does_not_hold_up_alarms(engine: Engine) -> None:
    put_device(engine, "d1")
    stage = stage_of(engine)
    with schema.write(engine) as connection:
        connection.execute(sa.text("ALTER TABLE devices RENAME TO away"))
    [found] = contexts(stage, record(body(1, alarm())))
    assert (found.stale, found.score_ratio) == (True, 1.5)


def test_an_alarm_as_large_as_an_event_may_be_goes_on(engine: Engine) -> None:
    put_device(engine, "d1")
    shares = [wire.Share("\U0001f681" * 230, 1 / 64) for _ in range(64)]  # four bytes a character
    content = body(1, alarm(attribution=shares))
    assert 58_000 < len(content) <= wire.MAX_EVENT_BYTES
    made = stage_of(engine).process("b", [record(content)])
    _, data, _ = decode_enriched(made.messages[0].value)
    assert [one.channel for one in data.alarm.attribution] == [one.channel for one in shares[:8]]


def write_model(path: Path, weights: list[float], *, outputs: int = 1) -> EnrichModel:
    """y = x W: the features' weighted sum first."""
    matrix = np.zeros((len(weights), outputs), dtype=np.float32)
    matrix[:, 0] = weights
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", len(weights)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", outputs])],
        [helper.make_tensor("w", TensorProto.FLOAT, matrix.shape, matrix.flatten().tolist())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return EnrichModel(str(path), ["score_ratio", "confidence", "share.acc.z"])


def test_a_model_judges_each_alarm_of_a_batch(tmp_path: Path, engine: Engine) -> None:
    import hashlib

    put_device(engine, "d1")
    model = write_model(tmp_path / "judge.onnx", [1.0, 10.0, 100.0], outputs=2)
    failed: list[int] = []
    stage = stage_of(engine, failed, enrich={"model": model})
    begins = [record(body(n, alarm(f"a{n}", score=float(n)))) for n in (2, 4)]
    found = contexts(stage, *begins, record(body(5, alarm("a4", "end"))))
    # score / 2 + 10 * .99 + 100 * .2
    assert [one.model and one.model.value for one in found] == [
        pytest.approx(30.9, rel=1e-6),
        pytest.approx(31.9, rel=1e-6),
        None,
    ]
    assert found[0].model is not None
    assert found[0].model.name == "judge"
    assert found[0].model.digest == hashlib.sha256((tmp_path / "judge.onnx").read_bytes()).hexdigest()
    assert failed == []


def test_a_broken_model_never_stops_alarms(tmp_path: Path, engine: Engine) -> None:
    put_device(engine, "d1")
    infinite = write_model(tmp_path / "inf.onnx", [float("inf"), 0.0, 0.0])
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    for model in (infinite, EnrichModel(str(tmp_path / "junk.onnx"), ["score"]), EnrichModel("/no/such", ["score"])):
        failed: list[int] = []
        [found] = contexts(stage_of(engine, failed, enrich={"model": model}), record(body(1, alarm())))
        assert found.model is None
        assert sum(failed) == 1


@pytest.mark.parametrize(
    ("features", "told"),
    [
        (["score"], r"one input \(B, 1\) expected"),
        (["scores", "a", "b"], "'scores' received"),
        (["share."], "'share.'"),
    ],
)
def test_a_model_that_does_not_fit_is_told(tmp_path: Path, features: list[str], told: str) -> None:
    path = write_model(tmp_path / "m.onnx", [1.0, 1.0, 1.0]).path
    with pytest.raises(ConfigError, match=told):
        Model(EnrichModel(path, features))


def endless(path: Path) -> EnrichModel:
    """Adds nothing to its input, 10^15 times."""
    row, truth = ["B", 1], helper.make_tensor_value_info
    inner = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["v", "zero"], ["w"])],
        "turn",
        [truth("n", TensorProto.INT64, []), truth("go", TensorProto.BOOL, []), truth("v", TensorProto.FLOAT, row)],
        [truth("on", TensorProto.BOOL, []), truth("w", TensorProto.FLOAT, row)],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["turns", "yes", "x"], ["y"], body=inner)],
        "long",
        [truth("x", TensorProto.FLOAT, row)],
        [truth("y", TensorProto.FLOAT, row)],
        [
            helper.make_tensor("turns", TensorProto.INT64, [], [10**15]),
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
            helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return EnrichModel(str(path), ["score_ratio"], timeout_s=0.2)


def test_a_model_that_never_ends_holds_up_no_alarm(
    tmp_path: Path, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    put_device(engine, "d1")
    failed: list[int] = []
    stage = stage_of(engine, failed, enrich={"model": endless(tmp_path / "long.onnx")})
    for n in range(1, 21):  # each would wait .2 s if it was asked again
        [found] = contexts(stage, record(body(n, alarm(f"a{n}"))))
        assert found.model is None
    assert sum(failed) == 20
    told = [one.message for one in caplog.records if one.name == "cloud.enrich"]
    assert "an answer within 0.2 s expected, none came; 1 alarms go on" in told[0]
    assert all("still at work" in one or "not asked for 30 s" in one for one in told[1:])


def test_a_late_call_is_asked_to_end_and_the_next_is_made_after_a_rest() -> None:
    deadline, released = Deadline("test", rest_s=0.05), threading.Event()
    assert deadline.call(lambda: 7, 10.0, released.set) == 7
    with pytest.raises(ZeroDivisionError):
        deadline.call(lambda: 1 // 0, 10.0, released.set)
    assert not released.is_set()
    with pytest.raises(LateError, match=r"an answer within 0\.01 s expected"):
        deadline.call(lambda: released.wait(30), 0.01, released.set)

    def answered() -> bool:
        try:
            return bool(deadline.call(lambda: True, 10.0, released.set))
        except LateError:
            return False

    wait_for(answered, 10, "it is asked again")


def test_a_model_whose_file_is_changed_is_read_anew_and_a_bad_one_changes_nothing(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "LOOK_S", 0.0)
    put_device(engine, "d1")
    failed: list[int] = []
    refused: list[int] = []
    path = tmp_path / "judge.onnx"
    path.write_bytes(b"junk")
    config = CloudConfig(enrich={"model": EnrichModel(str(path), ["score_ratio", "confidence", "share.acc.z"])})
    stage = EnrichStage(config, engine, failed.append, None, lambda: refused.append(1))

    def said(n: int) -> float | None:
        [found] = contexts(stage, record(body(n, alarm(f"a{n}"))))
        return None if found.model is None else round(found.model.value, 3)

    assert (said(1), sum(failed), len(refused)) == (None, 1, 1)
    write_model(path, [1.0, 0.0, 0.0])
    assert said(2) == 1.5  # score 3 over threshold 2
    path.write_bytes(b"junk again")
    assert (said(3), said(4), len(refused)) == (1.5, 1.5, 2)
    write_model(path, [2.0, 0.0, 0.0])
    assert (said(5), len(refused)) == (3.0, 2)
