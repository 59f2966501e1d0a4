"""What people change: each a transaction, one row in the audit log, and what devices and Kafka are told of it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from cloud.desk import audit, commands, devices, erase, judge
from cloud.learn import desired
from cloud.learn.releases import Release
from cloud.store import reader, schema, tables
from cloud.store.schema import open_store
from cloud.store.writer import write_batch
from cloud_events import DIGEST, OUTBOX, T0, alarm, new_store, received
from covey import topics, wire
from covey.errors import NameTaken, UnknownName, UsageError
from covey.wire_alarms import Feedback

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine

ME = audit.Actor("ada", "127.0.0.1")
URL = "http://127.0.0.1:1"


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    made = open_store(store_url)
    yield made
    made.dispose()


def device(engine: Engine, name: str) -> dict[str, Any]:
    found = reader.device(engine, name)
    assert found is not None
    return found


def alarm_row(engine: Engine, alarm_id: str = "a1") -> Any:
    with schema.read(engine) as connection:
        return connection.execute(sa.select(tables.alarms).where(tables.alarms.c.alarm_id == alarm_id)).one()


def outgoing(engine: Engine, topic: str) -> list[tuple[str, bytes]]:
    table = tables.outgoing
    with schema.read(engine) as connection:
        rows = connection.execute(sa.select(table).where(table.c.topic == topic).order_by(table.c.id))
        return [(row.key, row.value) for row in rows]


def audited(engine: Engine) -> list[tuple[str, str, str, str]]:
    return [(one["actor"], one["action"], one["target"], one["detail"]) for one in reversed(audit.entries(engine))]


def raise_alarm(engine: Engine, alarm_id: str = "a1", name: str = "d1", seq: int = 1) -> None:
    write_batch(engine, "b", {}, [received(seq, alarm(alarm_id), device=name)])


def release(number: int, group: str) -> Release:
    return Release(group, number, DIGEST, f"{group}/{number}.covey", 99, T0, "")


def test_a_device_is_added_once_with_group_and_labels(engine: Engine) -> None:
    devices.add(engine, "d1", "north", {"site": "quay"}, ME)
    row = device(engine, "d1")
    assert (row["group"], row["labels"], row["first_seen_s"]) == ("north", {"site": "quay"}, None)
    with pytest.raises(NameTaken, match="d1"):
        devices.add(engine, "d1", "south", {}, ME)
    assert device(engine, "d1")["group"] == "north"
    assert audited(engine) == [("ada", "add", "d1", "group north")]


@pytest.mark.parametrize(
    ("name", "group", "labels"),
    [("a/b", "north", {}), ("d1", "no group", {}), ("d1", "north", {"a b": "x"}), ("d1", "north", {"a": "x" * 257})],
)
def test_names_that_are_none_add_nothing(engine: Engine, name: str, group: str, labels: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="expected"):
        devices.add(engine, name, group, labels, ME)
    assert reader.fleet(engine) == []
    assert audited(engine) == []


def test_a_moved_device_is_wanted_to_run_its_new_groups_newest_wide_release(engine: Engine) -> None:
    devices.add(engine, "d1", "south", {}, ME)
    desired.assign(engine, release(1, "south"), URL)
    desired.assign(engine, release(1, "north"), URL)
    desired.assign(engine, release(2, "north"), URL)
    desired.assign(engine, release(3, "north"), URL, ["other"])  # for one device only: not the group's
    assert devices.move(engine, "d1", "north", URL, ME) == 2
    row = device(engine, "d1")
    assert (row["group"], row["desired"], row["desired_revision"]) == ("north", 2, 2)
    message = wire.decode(wire.Desired, outgoing(engine, topics.DESIRED)[-1][1])
    assert (message.device, message.group, message.target) == ("d1", "north", "north/2.covey")


def test_a_move_into_a_group_without_a_release_keeps_what_is_wanted(engine: Engine) -> None:
    devices.add(engine, "d1", "south", {}, ME)
    desired.assign(engine, release(1, "south"), URL)
    assert devices.move(engine, "d1", "empty", URL, ME) is None
    row = device(engine, "d1")
    assert (row["group"], row["desired"], row["desired_revision"]) == ("empty", 1, 1)


def test_labels_are_merged_and_none_takes_one_away(engine: Engine) -> None:
    devices.add(engine, "d1", "north", {"site": "quay", "owner": "x"}, ME)
    assert devices.label(engine, "d1", {"owner": None, "kind": "crane"}, ME) == {"kind": "crane", "site": "quay"}
    assert device(engine, "d1")["labels"] == {"kind": "crane", "site": "quay"}
    with pytest.raises(UsageError, match="at most 32 labels"):
        devices.label(engine, "d1", {f"k{n}": "v" for n in range(31)}, ME)


def test_parameters_travel_as_a_new_revision_of_what_is_wanted(engine: Engine) -> None:
    devices.add(engine, "d1", "north", {}, ME)
    with pytest.raises(UsageError, match="none is wanted yet"):
        devices.set_parameters(engine, "d1", {"summary_interval_s": 30.0}, ME)
    desired.assign(engine, release(1, "north"), URL)
    devices.set_parameters(engine, "d1", {"summary_interval_s": 30.0}, ME)
    message = wire.decode(wire.Desired, outgoing(engine, topics.DESIRED)[-1][1])
    assert (message.release, message.revision, message.parameters.summary_interval_s) == (1, 2, 30.0)
    for bad in ({"summary_interval_s": 0.0}, {"speed": 3}):
        with pytest.raises(UsageError, match="d1"):
            devices.set_parameters(engine, "d1", bad, ME)
    devices.set_parameters(engine, "d1", {"summary_interval_s": None}, ME)
    message = wire.decode(wire.Desired, outgoing(engine, topics.DESIRED)[-1][1])
    assert (message.revision, message.parameters.summary_interval_s) == (3, None)


def test_a_retired_device_takes_no_orders_and_can_come_back(engine: Engine) -> None:
    devices.add(engine, "d1", "north", {}, ME)
    devices.set_state(engine, "d1", "retired", ME)
    with pytest.raises(UsageError, match="retired"):
        commands.command(engine, "d1", "ping", ME)
    devices.set_state(engine, "d1", "active", ME)
    given, expires_s = commands.command(engine, "d1", "ping", ME)
    key, value = outgoing(engine, topics.COMMANDS)[0]
    assert (key, wire.decode(wire.Command, value)) == ("d1", wire.Command(given, "ping", expires_s))


def test_nobody_changes_a_device_that_is_not_known(engine: Engine) -> None:
    for change in (
        lambda: devices.move(engine, "d9", "north", URL, ME),
        lambda: devices.label(engine, "d9", {"a": "b"}, ME),
        lambda: devices.set_state(engine, "d9", "retired", ME),
        lambda: devices.set_parameters(engine, "d9", {}, ME),
        lambda: commands.command(engine, "d9", "ping", ME),
        lambda: erase.forget(engine, "d9", ME),
    ):
        with pytest.raises(UnknownName, match="d9"):
            change()
    assert audited(engine) == []


def test_a_rejection_is_told_on_feedback_and_to_the_device(engine: Engine) -> None:
    raise_alarm(engine)
    assert judge.judge(engine, [("d1", "a1")], "rejected", "hard landing", ME) == 1
    row = alarm_row(engine)
    assert (row.verdict, row.verdict_by, row.acknowledged_by) == ("rejected", "ada", "ada")
    ((key, value),) = outgoing(engine, topics.FEEDBACK)
    feedback = wire.decode(Feedback, value)
    assert (key, feedback.alarm_id, feedback.verdict, feedback.by, feedback.note) == (
        "d1",
        "a1",
        "rejected",
        "ada",
        "hard landing",
    )
    assert (feedback.release, feedback.digest, feedback.top_channel) == (1, DIGEST, "motor.m1")
    ((key, value),) = outgoing(engine, topics.COMMANDS)
    command = wire.decode(wire.Command, value)
    assert (key, command.kind, command.alarm_id) == ("d1", "false-alarm", "a1")


def test_the_same_verdict_again_says_nothing_twice(engine: Engine) -> None:
    raise_alarm(engine)
    assert judge.judge(engine, [("d1", "a1")], "confirmed", "", ME) == 1
    assert judge.judge(engine, [("d1", "a1")], "confirmed", "", audit.Actor("bob")) == 0
    assert len(outgoing(engine, topics.FEEDBACK)) == 1
    assert alarm_row(engine).verdict_by == "ada"
    assert outgoing(engine, topics.COMMANDS) == []


def test_undone_takes_back_the_verdict_first_and_then_the_acknowledgement(engine: Engine) -> None:
    raise_alarm(engine)
    judge.judge(engine, [("d1", "a1")], "acknowledged", "", ME)
    judge.judge(engine, [("d1", "a1")], "confirmed", "", ME)
    assert judge.judge(engine, [("d1", "a1")], "undone", "", ME) == 1
    row = alarm_row(engine)
    assert (row.verdict, row.verdict_s, row.acknowledged_by) == ("", None, "ada")
    assert judge.judge(engine, [("d1", "a1")], "undone", "", ME) == 1
    assert alarm_row(engine).acknowledged_s is None
    assert judge.judge(engine, [("d1", "a1")], "undone", "", ME) == 0
    said = [wire.decode(Feedback, value).verdict for _, value in outgoing(engine, topics.FEEDBACK)]
    assert said == ["confirmed", "undone"]  # an acknowledgement is no verdict
    with schema.read(engine) as connection:
        history = connection.execute(sa.select(tables.verdicts.c.verdict).order_by(tables.verdicts.c.id)).scalars()
        assert list(history) == ["acknowledged", "confirmed", "undone", "undone"]


def test_an_incident_is_judged_whole_or_not_at_all(engine: Engine) -> None:
    raise_alarm(engine, "a1", "d1")
    raise_alarm(engine, "a2", "d2")
    with pytest.raises(UnknownName, match="a3"):
        judge.judge(engine, [("d1", "a1"), ("d2", "a2"), ("d2", "a3")], "confirmed", "", ME)
    assert alarm_row(engine, "a1").verdict == alarm_row(engine, "a2").verdict == ""
    assert outgoing(engine, topics.FEEDBACK) == []
    assert judge.judge(engine, [("d1", "a1"), ("d2", "a2")], "confirmed", "", ME) == 2


def test_a_verdict_is_kept_when_the_alarms_end_arrives_later(engine: Engine) -> None:
    raise_alarm(engine)
    judge.judge(engine, [("d1", "a1")], "confirmed", "", ME)
    write_batch(engine, "b", {}, [received(2, alarm("a1", "end"))])
    row = alarm_row(engine)
    assert (row.state, row.verdict) == ("end", "confirmed")


def test_an_id_that_two_devices_have_asks_for_the_device(engine: Engine) -> None:
    raise_alarm(engine, "a1", "d1")
    raise_alarm(engine, "a1", "d2")
    with pytest.raises(UsageError, match="--device expected, d1, d2"):
        judge.find(engine, "a1")
    assert judge.find(engine, "a1", "d2") == ("d2", "a1")
    with pytest.raises(UnknownName, match="a7"):
        judge.find(engine, "a7")


def test_what_changed_carries_a_newer_change_number(engine: Engine) -> None:
    raise_alarm(engine)
    devices.label(engine, "d1", {"a": "b"}, ME)
    first = alarm_row(engine).changed
    judge.judge(engine, [("d1", "a1")], "confirmed", "", ME)
    second = alarm_row(engine).changed
    devices.label(engine, "d1", {"a": "c"}, ME)
    with schema.read(engine) as connection:
        third = connection.execute(sa.select(tables.devices.c.changed)).scalar_one()
    assert first < second < third


def test_what_is_wanted_of_a_device_is_a_change_of_the_device(engine: Engine) -> None:
    devices.add(engine, "d1", "north", {}, ME)
    device_ = tables.devices

    def changed() -> int:
        with schema.read(engine) as connection:
            return int(connection.execute(sa.select(device_.c.changed)).scalar_one())

    before = changed()
    desired.assign(engine, release(1, "north"), URL)
    assert changed() > before


def test_forgetting_leaves_no_byte_of_the_device_and_all_of_the_others(tmp_path: Path) -> None:
    _, engine = new_store(tmp_path)
    name, other = "quite-secret-drone-17", "d2"
    for one in (name, other):
        write_batch(engine, "b", {}, [received(1, device=one), received(2, alarm("a1"), device=one)])
        devices.label(engine, one, {"owner": "x"}, ME)
        judge.judge(engine, [(one, "a1")], "rejected", f"note on {one}", ME)
    line = wire.RoundEvent(run="0" * 16, seq=2, time_s=T0, kind="answered", device=name)
    with schema.write(engine) as connection:
        connection.execute(
            sa.insert(tables.rounds).values(
                run=line.run, seq=2, time_s=T0, kind="answered", round=0, body=wire.encode(line)
            )
        )
        connection.execute(
            sa.insert(tables.dead_letters).values(
                broker="b",
                partition=0,
                offset=1,
                reason="too_large",
                detail="",
                topic=topics.mqtt_topic(name, "summary"),
                received_s=T0,
                size_bytes=1,
            )
        )
    receipt = erase.forget(engine, name, ME)
    assert receipt["device_sha256"] == hashlib.sha256(name.encode()).hexdigest()
    assert receipt["erased"]["events"] == 2
    assert receipt["erased"]["rounds"] == 1
    assert receipt["erased"]["dead_letters"] == 1
    assert [row["device"] for row in reader.fleet(engine)] == [other]
    assert len(reader.alarms(engine)) == 1
    # The tombstone is the one message that must still name it.
    assert outgoing(engine, topics.DESIRED) == [(name, b"")]
    with schema.write(engine) as connection:
        connection.execute(sa.delete(tables.outgoing).where(tables.outgoing.c.key == name))
    erase._forget_pages(engine)
    engine.dispose()
    for file in tmp_path.iterdir():
        assert name.encode() not in file.read_bytes(), file.name


def test_forgetting_leaves_no_row_that_names_the_device(engine: Engine) -> None:
    name, other = "quite-secret-drone-17", "d2"
    for one in (name, other):
        events = [received(1, device=one), received(2, alarm("a1"), device=one)]
        write_batch(engine, "b", {}, [*events, received(1, device=one, outbox="ffeeddccbbaa9988")])
        devices.label(engine, one, {"owner": "x"}, ME)
        devices.move(engine, one, "north", URL, ME)
        judge.judge(engine, [(one, "a1")], "rejected", f"note on {one}", ME)
    desired.assign(engine, release(1, "north"), URL)
    receipt = erase.forget(engine, name, ME)
    assert (receipt["erased"]["events"], receipt["erased"]["outboxes"], receipt["erased"]["desired"]) == (3, 2, 1)
    naming: dict[str, set[str]] = {name: set(), other: set()}
    with schema.read(engine) as connection:
        for table in tables.metadata.sorted_tables:
            for row in connection.execute(sa.select(table)):
                for one, found in naming.items():
                    if any(
                        one in (value.decode("latin-1") if isinstance(value, bytes) else str(value)) for value in row
                    ):
                        found.add(table.name)
    assert naming[name] == {"outgoing"}  # the tombstone on covey.desired, which must name it
    assert {"devices", "events", "summaries", "alarms", "outboxes", "desired", "verdicts", "audit"} <= naming[other]


def test_a_forgotten_device_that_speaks_again_is_a_new_one(engine: Engine) -> None:
    write_batch(engine, "b", {}, [received(1), received(2)])
    erase.forget(engine, "d1", ME)
    applied = write_batch(engine, "b", {}, [received(3)])
    assert applied.stored == 1
    assert device(engine, "d1")["first_seen_s"] == T0


def test_every_change_is_in_the_audit_log_in_order(engine: Engine) -> None:
    devices.add(engine, "d1", "north", {}, ME)
    devices.label(engine, "d1", {"a": "b", "c": None}, ME)
    devices.move(engine, "d1", "south", URL, ME)
    devices.set_state(engine, "d1", "retired", audit.Actor("bob"))
    devices.set_state(engine, "d1", "retired", ME)  # changes nothing
    assert audited(engine) == [
        ("ada", "add", "d1", "group north"),
        ("ada", "label", "d1", "a=b, -c"),
        ("ada", "move", "d1", "north -> south; no release there"),
        ("bob", "retire", "d1", ""),
    ]
    assert [one["id"] for one in audit.entries(engine, 2, after=4)] == [3, 2]
    assert OUTBOX not in str(audited(engine))
