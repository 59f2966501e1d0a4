"""The terminal console: a real store, real keys, what is on the screen and what the store says afterwards."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from textual.widgets import DataTable, Input, Static

from cloud.console.watch import Watch
from cloud.store import schema, tables
from cloud.store.writer import write_batch
from cloud_events import alarm, new_store, received, summary

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sqlalchemy.engine import Engine
    from textual.pilot import Pilot

DEADLINE_S = 30.0


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = new_store(tmp_path)[1]
    now = time.time()
    write_batch(
        engine,
        "b",
        {},
        [received(1, summary(1, end_s=now), device=name, received_s=now) for name in ("d1", "d2", "d3")],
    )
    raise_alarm(engine, "d1", "a1", now - 5, "motor.m1")
    raise_alarm(engine, "d2", "a2", now - 3, "baro")
    with schema.write(engine) as connection:
        connection.execute(sa.update(tables.devices).where(tables.devices.c.device == "d2").values(group="north"))
    return engine


def raise_alarm(engine: Engine, device: str, alarm_id: str, at_s: float, channel: str) -> None:
    from covey import wire

    window = wire.WindowRef(at_s, at_s + 1, "cd" * 32)
    said = alarm(alarm_id, window=window, top_channel=channel)
    write_batch(engine, "b", {}, [received(2, said, device=device, received_s=at_s + 1)])


def played(
    engine: Engine, script: Callable[[Watch, Pilot[None]], Awaitable[None]], size: tuple[int, int] = (120, 40)
) -> None:
    async def run() -> None:
        app = Watch(engine)
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: bool(shown(app, "#headline")))
            await script(app, pilot)

    asyncio.run(asyncio.wait_for(run(), 90.0))


async def until(pilot: Pilot[None], there: Callable[[], Any]) -> None:
    """Let the screen work until something is there; fail when it does not come."""
    deadline = time.monotonic() + DEADLINE_S
    while not there():
        assert time.monotonic() < deadline, "did not come"
        await pilot.pause(0.05)


def shown(app: Watch, where: str) -> str:
    return str(app.query_one(where, Static).render())


def listed(app: Watch) -> list[list[str]]:
    table = app.query_one("#alarms", DataTable)
    return [[str(cell) for cell in table.get_row_at(row)][:4] for row in range(table.row_count)]


def verdicts(engine: Engine) -> dict[str, tuple[str, bool]]:
    with schema.read(engine) as connection:
        rows = connection.execute(sa.select(tables.alarms))
        return {row.alarm_id: (row.verdict, row.acknowledged_s is not None) for row in rows}


def test_the_screen_names_the_alarms_newest_first_and_counts_by_status(engine: Engine) -> None:
    async def script(app: Watch, _pilot: Pilot[None]) -> None:
        assert listed(app) == [["▲", "d2", "north", "baro"], ["▲", "d1", "default", "motor.m1"]]
        assert "▲ 2 alarm" in shown(app, "#counts")
        assert "2 need a verdict" in shown(app, "#counts")
        strips = shown(app, "#groups").splitlines()
        assert [line.split()[0] for line in strips if line.strip()] == ["default", "north"]

    played(engine, script)


def test_an_alarm_that_is_written_meanwhile_appears_and_the_cursor_stays(engine: Engine) -> None:
    async def script(app: Watch, pilot: Pilot[None]) -> None:
        await pilot.press("j")
        assert app._chosen().device == "d1"
        raise_alarm(engine, "d3", "a3", time.time(), "acc.z")
        await until(pilot, lambda: len(listed(app)) == 3)
        assert listed(app)[0][1] == "d3"
        assert app._chosen().device == "d1"

    played(engine, script)


def test_verdicts_by_one_key_and_back(engine: Engine) -> None:
    async def script(app: Watch, pilot: Pilot[None]) -> None:
        await pilot.press("x")  # d2, the newest
        await until(pilot, lambda: len(listed(app)) == 1)
        assert verdicts(engine)["a2"] == ("rejected", True)
        await pilot.press("c")  # d1, the one that is left
        await until(pilot, lambda: not listed(app))
        assert verdicts(engine)["a1"] == ("confirmed", True)
        await pilot.press("u")
        await until(pilot, lambda: [row[1] for row in listed(app)] == ["d1"])
        await pilot.press("u")
        await until(pilot, lambda: len(listed(app)) == 2)
        assert [verdict for verdict, _ in verdicts(engine).values()] == ["", ""]
        await pilot.press("u")  # nothing is left to be taken back

    played(engine, script)


def test_why_shows_the_chain_and_only_what_was_checked(engine: Engine) -> None:
    async def script(app: Watch, pilot: Pilot[None]) -> None:
        await pilot.press("w")
        await until(pilot, lambda: "baro drove d2" in shown(app, "#page"))
        page = shown(app, "#page")
        assert "1.50 times its threshold" in page
        assert "bytes match their hash" in page
        assert "no release of ours" in page

    played(engine, script)


def test_a_filter_narrows_the_list_as_one_types(engine: Engine) -> None:
    async def script(app: Watch, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"nor")
        await until(pilot, lambda: [row[1] for row in listed(app)] == ["d2"])
        await pilot.press("enter", "x")
        await until(pilot, lambda: verdicts(engine)["a2"][0] == "rejected")
        await pilot.press("escape")
        await until(pilot, lambda: [row[1] for row in listed(app)] == ["d1"])
        assert app.query_one("#filter", Input).value == ""

    played(engine, script)


def test_n_goes_to_the_next_open_alarm(engine: Engine) -> None:
    write_batch(engine, "b", {}, [received(3, alarm("a2", "end"), device="d2")])

    async def script(app: Watch, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: {row[0] for row in listed(app)} == {"▲", "△"})
        await pilot.press("n")
        assert app._chosen().device == "d1"
        await pilot.press("n")
        assert app._chosen().device == "d1"  # the only open one

    played(engine, script)


def test_a_small_terminal_is_enough(engine: Engine) -> None:
    async def script(app: Watch, _pilot: Pilot[None]) -> None:
        assert len(listed(app)) == 2
        assert all(len(line) <= 60 for line in shown(app, "#groups").splitlines())

    played(engine, script, size=(60, 20))


def test_names_from_devices_are_never_markup(engine: Engine) -> None:
    raise_alarm(engine, "d3", "a9", time.time(), "[red]x[/red]")

    async def script(app: Watch, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: len(listed(app)) == 3)
        assert listed(app)[0][3] == "[red]x[/red]"
        await pilot.press("w")
        await until(pilot, lambda: "[red]x[/red] drove d3" in shown(app, "#page"))

    played(engine, script)
