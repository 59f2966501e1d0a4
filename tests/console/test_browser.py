"""The console in a real Chromium, over a real store: what people see, press and are refused."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

import console_rig as rig
from cloud.store import schema, tables
from console_fleet import of_fleet, raise_alarm
from console_pages import page_of
from processes import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, Page
    from sqlalchemy.engine import Engine

Fleet = tuple[rig.Console, "Engine", list[str]]

pytestmark = pytest.mark.timeout(120)


def verdict(engine: Engine, alarm_id: str) -> str:
    with schema.read(engine) as connection:
        return str(
            connection.execute(
                sa.select(tables.alarms.c.verdict).where(tables.alarms.c.alarm_id == alarm_id)
            ).scalar_one()
        )


def test_the_first_second_names_the_place_counts_and_shows_every_device(chromium: Browser, fleet: Fleet) -> None:
    console, _, names = fleet
    with page_of(chromium, console) as page:
        expect(page.get_by_role("heading", level=1)).to_have_text("6 devices in mine-04 alarm alike")
        hive = page.locator("canvas").first
        expect(hive).to_have_attribute("aria-label", re.compile("^300 devices"))
        for group in ("harbour-east", "mine-04", "orchard-7"):
            expect(page.get_by_role("button", name=group).first).to_be_visible()
        page.keyboard.press("2")
        expect(page.get_by_text(names[0]).first).to_be_visible()


def test_an_alarm_that_is_written_appears_without_a_reload(chromium: Browser, fleet: Fleet) -> None:
    console, engine, names = fleet
    with page_of(chromium, console) as page:
        expect(page.get_by_text("live", exact=True)).to_be_visible()
        raise_alarm(engine, names[5], "fresh", "gyro.z", time.time(), seq=50)
        expect(page.get_by_text("gyro.z").first).to_be_visible(timeout=5_000)


def test_a_verdict_by_one_key_and_its_undo_reach_the_store(chromium: Browser, fleet: Fleet) -> None:
    console, engine, names = fleet
    raise_alarm(engine, names[8], "keyed", "vbat", time.time() + 1, seq=60)
    with page_of(chromium, console, f"/why/{names[8]}/keyed") as page:
        expect(page.get_by_role("heading", level=1)).to_contain_text(f"vbat drove {names[8]}")
        page.keyboard.press("x")
        wait_for(lambda: verdict(engine, "keyed") == "rejected", 10, "the rejection in the store")
        expect(page.get_by_text(f"Rejected {names[8]}")).to_be_visible()
        page.keyboard.press("u")
        wait_for(lambda: verdict(engine, "keyed") == "", 10, "the undone rejection in the store")
        expect(page.get_by_text(f"Took back: {names[8]}")).to_be_visible()
        page.keyboard.press("c")
        wait_for(lambda: verdict(engine, "keyed") == "confirmed", 10, "the confirmation in the store")


def test_why_ticks_only_what_the_cloud_has_checked(chromium: Browser, fleet: Fleet) -> None:
    console, _, names = fleet
    with page_of(chromium, console, f"/why/{names[1]}/alike-0") as page:
        expect(page.get_by_text("the stored bytes have the hash they came with")).to_be_visible()
        expect(page.get_by_text("no release with this number and digest was signed here")).to_be_visible()
        expect(page.get_by_text("not enriched yet")).to_be_visible()
        expect(page.get_by_text("60 %")).to_be_visible()
        expect(page.get_by_text(re.compile("covey cloud why"))).to_be_visible()


def test_the_device_page_shows_scores_alarms_and_controls(chromium: Browser, fleet: Fleet) -> None:
    console, engine, names = fleet
    with page_of(chromium, console, f"/devices/{names[0]}") as page:
        expect(page.get_by_role("heading", level=1)).to_contain_text(names[0])
        expect(page.get_by_text("Score against threshold")).to_be_visible()
        expect(page.get_by_text("motor.1").first).to_be_visible()
        page.get_by_label("Labels").fill("site=quay")
        page.get_by_role("button", name="Save").click()
        device = tables.devices

        def labelled() -> bool:
            with schema.read(engine) as connection:
                row = connection.execute(sa.select(device.c.labels).where(device.c.device == names[0])).scalar_one()
            return row == '{"site":"quay"}'

        wait_for(labelled, 10, "the label in the store")


PATHS = [
    "/", "/?view=Table", "/?view=Map", "/inbox", "/why/{0}/alone", "/devices/{0}", "/rollouts", "/learning", "/system", "/admin",
]  # fmt: skip


def there(page: Page) -> None:
    expect(page.locator("h1:not(.loading)")).to_be_visible()
    expect(page.locator(".placeholder")).to_have_count(0)


@pytest.mark.parametrize("path", PATHS)
def test_no_page_has_a_fault_that_axe_finds_dark_or_light(chromium: Browser, fleet: Fleet, path: str) -> None:
    console, _, names = fleet
    with page_of(chromium, console, path.format(names[0]), bypass_csp=True) as page:
        there(page)
        backgrounds = set()
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            found = Axe().run(page)
            assert found.violations_count == 0, f"{scheme}: {found.generate_report()}"
            backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(backgrounds) == 2, "the scheme was not taken"


SMALL = """() => [...document.querySelectorAll("a[href], button, select, input, summary")]
    .filter((one) => !one.closest("p, .skip") && one.checkVisibility({ visibilityProperty: true }))
    .map((one) => [one.outerHTML.slice(0, 120), one.getBoundingClientRect()])
    .filter(([, box]) => box.width > 0 && (box.height < 24 || box.width < 24))
    .map(([what, box]) => `${Math.round(box.width)} x ${Math.round(box.height)}: ${what}`)"""


@pytest.mark.parametrize("path", PATHS)
def test_a_phone_needs_no_scrolling_sideways_and_what_a_finger_hits_is_large(
    chromium: Browser, fleet: Fleet, path: str
) -> None:
    """At least 24 x 24 CSS pixels, but for links in running text (WCAG 2.2, 2.5.8)."""
    console, _, names = fleet
    narrow = {"width": 360, "height": 740}
    with page_of(chromium, console, path.format(names[0]), viewport=narrow, has_touch=True) as page:
        there(page)
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
        assert page.evaluate("matchMedia('(pointer: coarse)').matches")
        assert page.evaluate(SMALL) == []


def test_a_console_that_is_gone_is_told_and_comes_back_by_itself(chromium: Browser, tmp_path: Path) -> None:
    with of_fleet(tmp_path, 30) as (console, engine, names):
        context = chromium.new_context()
        page = context.new_page()
        page.goto(console.base)
        expect(page.get_by_text("live", exact=True)).to_be_visible()
        console.process.stop()
        expect(page.get_by_text("live", exact=True)).to_be_hidden(timeout=15_000)
        raise_alarm(engine, names[7], "meanwhile", "acc.q", time.time(), seq=9)
        console.process.start(console.ready, 60)
        expect(page.get_by_text("live", exact=True)).to_be_visible(timeout=30_000)
        expect(page.get_by_text("acc.q").first).to_be_visible(timeout=10_000)
        context.close()


def test_ten_thousand_devices_are_there_within_seconds(chromium: Browser, tmp_path: Path) -> None:
    with of_fleet(tmp_path, 10_000) as (console, _, _), page_of(chromium, console) as page:
        expect(page.locator("canvas").first).to_have_attribute(
            "aria-label", re.compile("^10,000 devices"), timeout=10_000
        )
        expect(page.get_by_role("heading", level=1)).to_contain_text("alarm alike")
