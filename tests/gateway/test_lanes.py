"""The quick road of admission accepts nothing that the slow one refuses, and nearly all that it accepts."""

import json
import logging
import random
import re
from pathlib import Path

import pytest

from covey import topics, wire
from gateway.admit import Accept, Admission, RateLimit
from gateway.counts import Counts
from gateway.intake import Intake
from gateway.lanes import LOOK_CLOSER, Lane
from gateway.mapping import Mapping
from gateway.receiver import received

NOW = 1_700_000_000.0
DEVICE = "drone-07"
PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")


def _example(kind: str) -> bytes:
    found = re.search(rf"```json {kind}\n(.*?)\n```", PAGE, re.DOTALL)
    assert found
    return found.group(1).encode()


def _lane(kind: str, rate: RateLimit | None = None, most: int = wire.MAX_EVENT_BYTES) -> Lane:
    limit = rate or RateLimit(1e9, 10**9)
    return Lane(topics.parse(topics.mqtt_topic(DEVICE, kind)), limit, limit.bucket(DEVICE, NOW), most)


def _slow(kind: str, payload: bytes) -> wire.Identity | None:
    admission = Admission("g", wire.MAX_EVENT_BYTES, RateLimit(1e9, 10**9), first_presence=1)
    verdict = admission.admit(topics.mqtt_topic(DEVICE, kind).encode(), payload, NOW)
    return verdict.identity if isinstance(verdict, Accept) else None


def _quick(kind: str, payload: bytes) -> wire.Identity | None:
    lane = _lane(kind)
    seq = lane.judge(payload, NOW)
    return None if seq == LOOK_CLOSER else wire.Identity(lane.device, lane.outbox, seq)


def _without_drops(payload: bytes) -> bytes:
    return re.sub(rb'"dropped":\[.*?\]', b'"dropped":[]', payload)


@pytest.mark.parametrize("kind", ["summary", "alarm", "status"])
def test_an_ordinary_event_takes_the_quick_road(kind: str) -> None:
    payload = _without_drops(_example(kind))
    identity = _quick(kind, payload)
    assert identity is not None
    assert identity == _slow(kind, payload)


VALUES = [
    None, True, 0, 1, -1, 2**53, 2**64, 10**40, 0.5, -0.5, 1e308, "", "x", "x" * 300, "0" * 64, "0" * 63, "0" * 64 + "\n", "G" * 64,
    "A" * 64, "\u0661", [], [[]], [[0, 0]], [[0, 1]], [[-1, 0]], [[0, 0], [1, 0]], [[0, 0], [1, -2]], [[0, 0], [1, 1], [1, 2]],
    [[0, 0], [1, 1, 1]], [[5, 0], [5, 1]], [[0, 0]] + [[n, 1] for n in range(512)], [[0, 0]] + [[n, 1] for n in range(513)], {}, {"a": 1},
    "drone-07/00c0ffee00c0ffee/0", "drone-07/00c0ffee00c0ffee/007", "drone-07/00c0ffee00c0ffee/9007199254740991",
    "drone-07/00c0ffee00c0ffee/9007199254740992", "drone-07/00c0ffee00c0ffee/1\n", "drone-07/00c0ffee00c0ffee/\u0661", "drone-07/00c0ffee00c0ffee/",
    "drone-07/00c0ffee00c0ffee/-1", "drone-07/00c0ffee00c0ffee/1_0", "drone-07/00c0ffee00c0ffee/\u00b2", "drone-07//1", "drone-08/00c0ffee00c0ffee/1", "/covey/drone-07",
    "/covey/drone-08", "1.0", "covey.summary.v1", "covey.alarm.v1", "covey.status.v1", "application/json",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
]  # fmt: skip


def _places(node: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    here = [path] if path else []
    if isinstance(node, dict):
        return here + [p for key, below in node.items() for p in _places(below, (*path, key))]
    if isinstance(node, list):
        return here + [p for index, below in enumerate(node) for p in _places(below, (*path, index))]
    return here


def _changed(event: object, path: tuple[object, ...], value: object, *, drop: bool) -> object:
    copy = json.loads(json.dumps(event))
    node = copy
    for step in path[:-1]:
        node = node[step]
    if drop:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return copy


@pytest.mark.parametrize("kind", ["summary", "alarm", "status"])
def test_every_field_with_every_kind_of_value_is_accepted_by_the_slow_road_wherever_the_quick_one_accepts(kind) -> None:
    event = json.loads(_example(kind))
    accepted = refused = closer = 0
    for path in _places(event):
        for value in [*VALUES, ...]:
            payload = json.dumps(_changed(event, path, None if value is ... else value, drop=value is ...)).encode()
            quick, slow = _quick(kind, payload), _slow(kind, payload)
            if quick is not None:
                assert quick == slow, payload
                accepted += 1
            elif slow is not None:
                closer += 1
            else:
                refused += 1
    assert accepted or kind == "summary"  # the example of a summary tells of dropped rows: the slow road's
    assert refused > 500
    assert kind == "summary" or closer <= 3, closer


def test_the_same_holds_for_a_summary_without_dropped_rows() -> None:
    event = json.loads(_without_drops(_example("summary")))
    only_slow = []
    for path in _places(event):
        for value in [*VALUES, ...]:
            payload = json.dumps(_changed(event, path, None if value is ... else value, drop=value is ...)).encode()
            quick, slow = _quick("summary", payload), _slow("summary", payload)
            assert quick is None or quick == slow, payload
            if quick is None and slow is not None:
                only_slow.append((path, value))
    assert len(only_slow) <= 3, only_slow


def test_bytes_changed_at_random_are_accepted_by_the_slow_road_wherever_the_quick_one_accepts() -> None:
    rng = random.Random(11)
    for _ in range(3_000):
        kind = rng.choice(("summary", "alarm", "status"))
        payload = bytearray(_without_drops(_example(kind)))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(payload))
            payload[at] = rng.choice((payload[at] ^ 1, rng.randrange(256), ord(rng.choice('0123456789"{}[],:-.eE '))))
        quick = _quick(kind, bytes(payload))
        assert quick is None or quick == _slow(kind, bytes(payload)), payload


def test_a_lane_follows_its_device_to_another_outbox_and_back() -> None:
    lane, payload = _lane("status"), _example("status")
    other = payload.replace(b"00c0ffee00c0ffee", b"ffffffffffffffff")
    seen = [(lane.judge(p, NOW), lane.outbox) for p in (payload, other, payload)]
    assert seen == [(1, "00c0ffee00c0ffee"), (1, "f" * 16), (1, "00c0ffee00c0ffee")]


def test_size_and_rate_end_the_quick_road() -> None:
    payload = _example("status")
    assert _lane("status", most=len(payload)).judge(payload, NOW) == 1
    assert _lane("status", most=len(payload) - 1).judge(payload, NOW) == LOOK_CLOSER
    lane = _lane("status", RateLimit(1.0, 2))
    assert [lane.judge(payload, NOW + t) for t in (0, 0, 0, 1, 1)] == [1, 1, LOOK_CLOSER, 1, LOOK_CLOSER]


def test_an_alarm_gives_its_trace_context_away_and_a_summary_keeps_it() -> None:
    alarm, summary = _lane("alarm"), _lane("summary")
    alarm.judge(_example("alarm"), NOW)
    summary.judge(_without_drops(_example("summary")), NOW)
    assert alarm.trace == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert summary.trace == ""


def test_the_rate_limit_written_out_for_plain_devices_and_lanes_is_the_one_of_rate_take() -> None:
    mapping = Mapping(filter="bench/+", topic="bench.raw", key="{1}")
    intake = Intake(Admission("g", 65_536, RateLimit(2.0, 3), 1, (mapping,)), Counts(), logging.getLogger("gateway"))
    limit, rng, now_s = RateLimit(2.0, 3), random.Random(5), NOW
    lane, plain = _lane("status", RateLimit(2.0, 3)), RateLimit(2.0, 3)
    bucket, other = limit.bucket("d", NOW), plain.bucket("d", NOW)
    for _ in range(2_000):
        now_s += rng.choice((0.0, 0.0, 0.1, 0.4, 0.5, 60.0))  # 60 s fill a bucket more than once
        batch = intake.take(1, [received(b"bench/d", b"x", 1)], now_s, now_s)
        assert list(batch.parts) == (["bench.raw"] if limit.take(bucket, now_s) else [topics.DEADLETTER])
        assert (lane.judge(_STATUS, now_s) != LOOK_CLOSER) == plain.take(other, now_s)


_STATUS = _example("status")


def test_numbers_in_any_order_are_judged_as_the_slow_road_does() -> None:
    payload = _without_drops(_example("summary"))
    own = re.search(rb'"id":\s*"([^"/]+/[^"/]+/)\d+"', payload)
    assert own
    most = wire.MAX_SEQ
    numbers = [
        "1",
        "2",
        "3",
        "2",
        "9",
        "10",
        "010",
        "11 ",
        "",
        "0",
        "-1",
        "1_2",
        "11",
        "\\u0031",
        "1" * 17,
        str(most),
        str(most + 1),
        "12",
    ]
    outboxes = [own.group(1), own.group(1)[:-17] + b"ffeeddccbbaa9988/"]
    lane, judged = _lane("summary"), []
    for number in numbers + numbers[:4]:
        for outbox in outboxes if number == "3" else outboxes[:1]:
            one = payload.replace(own.group(0), b'"id":"%b%b"' % (outbox, number.encode()))
            seq = lane.judge(one, NOW)
            quick = None if seq == LOOK_CLOSER else wire.Identity(lane.device, lane.outbox, seq)
            assert quick == _slow("summary", one), one[:120]
            judged.append(seq)
    assert judged.count(LOOK_CLOSER) == 8  # 010, "11 ", "", 0, -1, 1_2, seventeen digits, above MAX_SEQ
