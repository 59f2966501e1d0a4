"""What each page lets people do, in a real Chromium: filter, walk, judge an incident, look at figures, change accounts."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from playwright.sync_api import expect

import cloud_events as ev
import console_rig as rig
from cloud.store import changes, schema, tables
from cloud.store.writer import write_batch
from console_fleet import raise_alarm
from console_pages import page_of
from processes import wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
    from sqlalchemy.engine import Engine

Fleet = tuple[rig.Console, "Engine", list[str]]

pytestmark = pytest.mark.timeout(120)

ROWS = "tbody tr:not(.spacer)"
DRAWN = "() => document.querySelector('.hive canvas').hive.drawn"


def verdicts(engine: Engine, ids: list[str]) -> set[str]:
    table = tables.alarms
    with schema.read(engine) as connection:
        return set(connection.execute(sa.select(table.c.verdict).where(table.c.alarm_id.in_(ids))).scalars())


def signs(page: Page) -> list[str | None]:
    return [one.get_attribute("aria-label") for one in page.locator(".chain .sign svg").all()]


# --- fleet


def test_the_five_counts_add_up_and_each_filters_what_it_counts(chromium: Browser, fleet: Fleet) -> None:
    console, _, names = fleet
    with page_of(chromium, console, "/?view=Table") as page:
        expect(page.locator(".count b").last).not_to_have_text("0")
        figures = [int(text.replace(",", "")) for text in page.locator(".count b").all_inner_texts()]
        assert sum(figures) >= len(names)
        page.locator(".count", has_text="Alarm").click()
        expect(page.locator("table.devices")).to_have_attribute("aria-rowcount", str(figures[0] + 1))
        assert {text.strip() for text in page.locator("td.col-status").all_inner_texts()} == {"Alarm"}
        assert "status=alarm" in page.url
        page.reload()
        expect(page.locator(".chip")).to_contain_text(f"{figures[0]} fit")


def test_letters_filter_by_device_and_group_and_escape_clears(chromium: Browser, fleet: Fleet) -> None:
    console, _, names = fleet
    with page_of(chromium, console, "/?view=Table") as page:
        expect(page.locator(ROWS).first).to_be_visible()
        page.keyboard.press("/")
        page.keyboard.type(f"orchard {names[5]}")
        expect(page.locator(ROWS)).to_have_count(1)
        page.keyboard.press("Escape")
        expect(page.locator(".chip")).to_have_count(0)


def test_a_long_table_holds_only_the_rows_in_sight(chromium: Browser, fleet: Fleet) -> None:
    console, _, names = fleet
    with page_of(chromium, console, "/?view=Table") as page:
        expect(page.locator("table.devices")).to_have_attribute("aria-rowcount", re.compile(r"^3\d\d$"))
        assert page.locator(ROWS).count() < 60
        page.get_by_role("button", name="Device", exact=True).click()
        page.evaluate("() => { const box = document.querySelector('.table-box'); box.scrollTop = box.scrollHeight; }")
        expect(page.locator(ROWS).last).to_contain_text(names[-1])


def test_only_cells_that_changed_are_drawn_anew(chromium: Browser, fleet: Fleet) -> None:
    console, engine, names = fleet
    with page_of(chromium, console) as page:
        expect(page.get_by_text("live", exact=True)).to_be_visible()
        wait_for(lambda: page.evaluate(DRAWN) >= len(names), 10, "the first drawing")
        before = page.evaluate(DRAWN)
        now_s = time.time()
        quiet = [names[20], names[21]]
        write_batch(
            engine,
            "b",
            {},
            [
                ev.received(9, ev.summary(9, start_s=now_s - 9, end_s=now_s), device=name, received_s=now_s)
                for name in quiet
            ],
        )
        wait_for(lambda: page.evaluate(DRAWN) > before, 10, "the change on the page")
        assert page.evaluate(DRAWN) - before == len(quiet)


def test_the_hive_is_walked_with_arrows_and_opens_with_enter(chromium: Browser, fleet: Fleet) -> None:
    console, _, names = fleet
    with page_of(chromium, console) as page:
        expect(page.get_by_role("button", name="mine-04").first).to_be_visible()
        page.locator(".hive canvas").focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        # The first group's second device: every third name is harbour-east's.
        expect(page.locator(".hive [role=status]")).to_contain_text(names[3])
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile(f"/devices/{names[3]}$"))
        page.go_back()
        expect(page.locator(".hive canvas")).to_be_visible()


def test_keys_change_the_view_and_the_page_and_help_tells_them(chromium: Browser, fleet: Fleet) -> None:
    console, _, _ = fleet
    with page_of(chromium, console) as page:
        expect(page.get_by_role("button", name="mine-04").first).to_be_visible()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.keyboard.press("2")
        expect(page.locator("table.devices")).to_be_visible()
        assert not [url for url in asked if "land-50m" in url]
        with page.expect_response(re.compile("land-50m")) as land:
            page.keyboard.press("3")
        assert land.value.ok
        page.keyboard.press("g")
        page.keyboard.press("r")
        expect(page).to_have_url(re.compile("/rollouts$"))
        page.keyboard.press("?")
        expect(page.locator("dialog[open]")).to_contain_text("Confirm")
        page.keyboard.press("Escape")
        expect(page.locator("dialog[open]")).to_have_count(0)


def test_two_tabs_share_one_stream(chromium: Browser, fleet: Fleet) -> None:
    console, engine, names = fleet
    with page_of(chromium, console) as page:
        expect(page.get_by_text("live", exact=True)).to_be_visible()
        second = page.context.new_page()
        second.goto(console.base)
        expect(second.get_by_text("live", exact=True)).to_be_visible()
        with console.client() as client:  # those of tests before end a moment after their pages
            wait_for(lambda: "covey_console_streams 1.0" in client.get("/metrics").text, 20, "one stream of two tabs")
        raise_alarm(engine, names[11], "both", "gyro.q", time.time(), seq=30)
        for tab in (page, second):
            expect(tab.get_by_text("gyro.q").first).to_be_visible()


# --- inbox and why


def test_an_incident_is_one_line_and_one_key_judges_all_of_it(chromium: Browser, fleet: Fleet) -> None:
    console, engine, names = fleet
    ids = [f"alike-{number}" for number in range(6)]
    with page_of(chromium, console, "/inbox") as page:
        line = page.locator(".alarm-line.incident", has_text="6 devices alike")
        line.locator(".alarm-pick").click()
        page.keyboard.press("e")
        expect(page.locator(".alarm-line.child")).to_have_count(6)
        page.keyboard.press("c")
        wait_for(lambda: verdicts(engine, ids) == {"confirmed"}, 10, "six confirmations")
        expect(line).to_have_count(0)
        expect(page.locator(".alarm-line", has_text=names[0])).to_have_count(1)
        page.keyboard.press("u")
        wait_for(lambda: verdicts(engine, ids) == {""}, 10, "six undone")
        expect(line).to_have_count(1)


def test_j_k_move_w_asks_why_and_filters_hold_back(chromium: Browser, fleet: Fleet) -> None:
    console, _, names = fleet
    with page_of(chromium, console, "/inbox") as page:
        current = page.locator(".alarm-line[aria-current=true] b").first
        expect(current).to_be_visible()
        page.get_by_label("Group").select_option("harbour-east")
        expect(page.locator(".alarm-line", has_text="mine-04")).to_have_count(0)
        page.get_by_label("Channel").fill("motor.1")
        page.get_by_label("Channel").press("Enter")
        expect(page.locator(".alarm-line")).to_have_count(1)
        expect(current).to_have_text(names[0])
        page.locator("h1").click()
        page.keyboard.press("w")
        expect(page).to_have_url(re.compile(f"/why/{names[0]}/alone$"))


def test_alarms_that_arrive_do_not_slide_under_the_hand_that_judges(chromium: Browser, fleet: Fleet) -> None:
    console, engine, names = fleet
    with page_of(chromium, console, "/inbox") as page:
        page.get_by_label("Group").select_option("harbour-east")
        current = page.locator(".alarm-line[aria-current=true] b").first
        expect(current).to_have_text(names[0])
        page.get_by_label("Note").fill("the motor was new")
        raise_alarm(engine, names[24], "newer", "gyro.x", time.time(), seq=80)
        expect(page.locator(".alarm-line b").first).to_have_text(names[24])
        expect(current).to_have_text(names[0])
        expect(page.get_by_label("Note")).to_have_value("the motor was new")
    with schema.write(engine) as connection:  # the other tests have names[0] alone in its group
        change = changes.number(connection)
        mine = tables.alarms.c.alarm_id == "newer"
        connection.execute(sa.update(tables.alarms).where(mine).values(verdict="rejected", changed=change))


def test_what_another_operator_judges_stays_under_the_eyes_of_who_looks_at_it(chromium: Browser, fleet: Fleet) -> None:
    console, engine, names = fleet
    for n, when_s in ((30, 20.0), (31, 10.0)):
        raise_alarm(engine, names[n], "both", "two.hands", time.time() - when_s, seq=90)

    def judge(name: str, verdict: str) -> None:
        with console.client() as other:
            other.headers["X-CSRF-Token"] = other.get("/api/me").json()["csrf"]
            done = other.post(f"/api/alarms/{name}/both/verdict", json={"verdict": verdict})
            assert done.status_code == 201, done.text

    def verdict(name: str) -> str:
        with console.client() as other:
            return str(other.get(f"/api/alarms/{name}/both").json()["verdict"])

    with page_of(chromium, console, "/inbox") as page:
        page.get_by_label("Channel").fill("two.hands")
        page.keyboard.press("Tab")
        expect(page.locator(".alarm-line")).to_have_count(2)
        current = page.locator(".alarm-line[aria-current=true]")
        page.locator(".alarm-pick").first.click()
        expect(current.locator("b").first).to_have_text(names[31])
        judge(names[31], "rejected")
        expect(current).to_contain_text("judged meanwhile")
        expect(current.locator("b").first).to_have_text(names[31])
        expect(page.locator(".aside")).to_contain_text("rejected by")
        page.keyboard.press("c")
        expect(page.get_by_text("It needs no verdict any more")).to_be_visible()
        page.keyboard.press("j")
        expect(current.locator("b").first).to_have_text(names[30])
        expect(page.locator(".alarm-line")).to_have_count(1)
        assert [verdict(names[n]) for n in (30, 31)] == ["", "rejected"]
        page.keyboard.press("c")
        expect(page.locator(".alarm-line")).to_have_count(0)
        assert verdict(names[30]) == "confirmed"


def test_bytes_that_were_changed_in_the_store_get_no_tick(chromium: Browser, fleet: Fleet) -> None:
    console, engine, names = fleet
    alarm = 3  # of window, model, score, alarm
    raise_alarm(engine, names[18], "forged", "motor.1", time.time() - 3000, seq=70)
    with page_of(chromium, console, f"/why/{names[18]}/forged") as page:
        expect(page.locator(".chain .step")).to_have_count(8)
        assert signs(page)[0] == "as the device or a stage told it"  # its samples never left the device
        assert signs(page)[alarm] == "checked by the cloud"
    table = tables.events
    with schema.write(engine) as connection:
        mine = sa.and_(table.c.device == names[18], table.c.seq == 70)
        body = connection.execute(sa.select(table.c.body).where(mine)).scalar_one()
        connection.execute(sa.update(table).where(mine).values(body=body.replace(b"motor.1", b"motor.9")))
    with page_of(chromium, console, f"/why/{names[18]}/forged") as page:
        expect(page.locator(".chain .step")).to_have_count(8)
        assert signs(page)[alarm] == "does not agree"


def test_what_one_operator_acknowledges_another_sees_without_doing_anything(chromium: Browser, fleet: Fleet) -> None:
    console, engine, names = fleet
    raise_alarm(engine, names[20], "shared", "motor.2", time.time(), seq=80)
    with page_of(chromium, console, "/inbox") as mine, page_of(chromium, console, "/inbox") as other:
        theirs = other.locator(".alarm-line", has_text=names[20])
        expect(theirs).to_contain_text("open")
        mine.locator(".alarm-line", has_text=names[20]).locator(".alarm-pick").click()
        mine.keyboard.press("a")
        expect(theirs).to_contain_text("acknowledged")


def test_a_window_that_is_covered_and_gets_no_frames_is_told_all_the_same(chromium: Browser, fleet: Fleet) -> None:
    console, engine, names = fleet
    with page_of(chromium, console, "/inbox", before="window.requestAnimationFrame = () => 0") as page:
        expect(page.locator(".alarm-line").first).to_be_visible()
        raise_alarm(engine, names[22], "covered", "motor.3", time.time(), seq=80)
        expect(page.locator(".alarm-line", has_text=names[22])).to_be_visible(timeout=10_000)


def test_a_note_goes_with_its_verdict_and_the_verdict_can_be_taken_back_later(chromium: Browser, fleet: Fleet) -> None:
    console, engine, names = fleet
    raise_alarm(engine, names[21], "noted", "motor.2", time.time() - 2000, seq=80)
    with page_of(chromium, console, f"/why/{names[21]}/noted") as page:
        page.get_by_label("Note").fill("propeller changed at noon, c and x are only letters here")
        page.get_by_label("Note").press("Enter")
        page.keyboard.press("x")
        wait_for(lambda: verdicts(engine, ["noted"]) == {"rejected"}, 10, "a rejection")
        expect(page.get_by_text("propeller changed at noon")).to_have_count(2)  # in the chain and in the history
        expect(page.get_by_label("Note")).to_have_value("")
    with page_of(chromium, console, f"/why/{names[21]}/noted") as page:  # a page that has judged nothing itself
        page.get_by_role("button", name="Undo").click()
        wait_for(lambda: verdicts(engine, ["noted"]) == {""}, 10, "it is taken back")
        expect(page.get_by_text("undone", exact=True)).to_be_visible()
    with page_of(chromium, console, "/inbox") as page:
        line = page.locator(".alarm-line", has_text=names[21])
        line.locator(".alarm-pick").click()
        page.get_by_label("Note").fill("it was ice")
        page.get_by_role("button", name="Confirm").click()
        wait_for(lambda: verdicts(engine, ["noted"]) == {"confirmed"}, 10, "a confirmation")
    table = tables.verdicts
    with schema.read(engine) as connection:
        query = sa.select(table.c.verdict, table.c.note).where(table.c.alarm_id == "noted").order_by(table.c.time_s)
        told = [tuple(row) for row in connection.execute(query)]
    first = "propeller changed at noon, c and x are only letters here"
    assert told == [("rejected", first), ("undone", ""), ("confirmed", "it was ice")]


# --- device, learning, accounts


def test_the_chart_tells_its_figures_as_text_too(chromium: Browser, fleet: Fleet) -> None:
    console, engine, names = fleet
    now_s = time.time()
    scores = ev.wire.Scores(p50=0.5, p95=1.0, p99=2.0, max=3.0, sketch=[[0, 0], [5, 10]])
    said = ev.summary(40, start_s=now_s - 10, end_s=now_s, score=scores)  # its threshold is 2
    write_batch(engine, "b", {}, [ev.received(40, said, device=names[12], received_s=now_s)])
    with page_of(chromium, console, f"/devices/{names[12]}") as page:
        expect(page.locator(".plot canvas")).to_be_visible()
        page.get_by_text("The newest periods as a table").click()
        last = page.locator(".as-text tbody tr").last
        expect(last).to_contain_text(re.compile(r"0\.25.\s*1\.00.\s*1\.50."))
        expect(page.get_by_role("img", name=re.compile("greatest 1.50. of the threshold"))).to_be_visible()


def test_a_label_that_leaves_the_field_leaves_the_device(chromium: Browser, fleet: Fleet) -> None:
    console, engine, names = fleet
    device = tables.devices

    def labels() -> str:
        with schema.read(engine) as connection:
            return str(connection.execute(sa.select(device.c.labels).where(device.c.device == names[15])).scalar_one())

    with page_of(chromium, console, f"/devices/{names[15]}") as page:
        page.get_by_label("Labels").fill("site=quay, owner=kim")
        page.get_by_role("button", name="Save").click()
        wait_for(lambda: labels() == '{"owner":"kim","site":"quay"}', 10, "both labels")
        expect(page.get_by_label("Labels")).to_have_value("owner=kim, site=quay")  # read back, in the store's order
        page.get_by_label("Labels").fill("owner=kim")
        page.get_by_role("button", name="Save").click()
        wait_for(lambda: labels() == '{"owner":"kim"}', 10, "one label")
