"""What operators set in the browser: releases, devices, training, accounts; and how tabs share the line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from playwright.sync_api import expect

import console_rig as rig
from cloud.desk import accounts
from cloud.store import reader, schema, tables
from covey import wire
from processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page
    from sqlalchemy.engine import Engine

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[rig.Console, Engine]]:
    """A console over a store with something of everything, and no accounts."""
    folder = tmp_path_factory.mktemp("controls")
    url, engine = rig.new_store(folder)
    with rig.Console(folder, url, requests_per_s=10_000) as console:
        yield console, engine
    engine.dispose()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    yield context.new_page()
    context.close()


def streams(console: rig.Console) -> float:
    with console.client() as client:
        text = client.get("/metrics").text
    found = re.search(r"^covey_console_streams (\S+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_tabs_of_a_browser_share_one_line(running: tuple[rig.Console, Engine], chromium: Browser) -> None:
    console, _ = running
    wait_for(lambda: streams(console) == 0, 30, "lines of earlier pages end")
    context = chromium.new_context()
    pages = [context.new_page() for _ in range(3)]
    for one in pages:
        one.goto(console.base)
        expect(one.get_by_text("live", exact=True)).to_be_visible()
    assert streams(console) == 1
    context.close()


def test_a_release_is_wanted_of_chosen_devices_and_then_of_its_group(
    running: tuple[rig.Console, Engine], page: Page
) -> None:
    console, engine = running

    def wanted() -> list[str]:
        return [row["device"] for row in reader.fleet(engine) if row["desired"] == 1]

    page.goto(f"{console.base}/rollouts")
    page.get_by_role("button", name="Want it").first.click()
    page.get_by_role("textbox").last.fill("d2")
    page.get_by_role("button", name="Want it of 1 device").click()
    wait_for(lambda: wanted() == ["d2"], 10, "release 1 wanted of d2")
    expect(page.get_by_text("1 device still to take a release")).to_be_visible()
    page.get_by_role("button", name="Want it").first.click()
    page.get_by_role("button", name="Want it of the whole group").click()
    wait_for(lambda: wanted() == ["d1", "d2", "d3"], 10, "release 1 wanted of the group")


def test_a_run_is_shown_with_its_rounds_and_grows_live(running: tuple[rig.Console, Engine], page: Page) -> None:
    console, engine = running
    page.goto(f"{console.base}/learning")
    expect(page.get_by_role("heading", level=1)).to_have_text("Round 1 of 2 with 1 device")
    line = wire.RoundEvent(rig.RUN, 6, rig.ev.now(), "round", 2, figures={"clients": 2.0, "loss": 0.25})
    with schema.write(engine) as connection:
        change = rig.changes.number(connection)
        row = {name: getattr(line, name) for name in ("run", "seq", "time_s", "kind", "round")}
        connection.execute(sa.insert(tables.rounds).values(**row, body=wire.encode(line), changed=change))
    expect(page.get_by_role("heading", level=1)).to_have_text("Round 2 of 2 with 2 devices", timeout=10_000)


def test_erasing_asks_for_the_name_and_the_device_is_gone_everywhere(
    running: tuple[rig.Console, Engine], page: Page
) -> None:
    console, engine = running
    page.goto(f"{console.base}/devices/d3")
    page.get_by_role("button", name="Erase its data").click()
    dialog = page.get_by_role("dialog")
    erase = dialog.get_by_role("button", name=re.compile("Erase"))
    expect(erase).to_be_disabled()
    dialog.get_by_role("textbox").fill("d3")
    erase.click()
    wait_for(lambda: reader.device(engine, "d3") is None, 10, "d3 is erased")
    page.goto(console.base)
    expect(page.locator("canvas").first).to_have_attribute("aria-label", re.compile("^2 devices"), timeout=10_000)


def test_the_first_account_made_in_the_browser_closes_the_door(
    chromium: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("first")
    url, engine = rig.new_store(folder)
    with rig.Console(folder, url, requests_per_s=10_000) as console, console.client() as client:
        client.headers["X-CSRF-Token"] = client.get("/api/me").json()["csrf"]
        made = client.post("/api/accounts", json={"name": "ada", "role": "admin", "password": rig.PASSWORD})
        assert made.status_code in (200, 201), made.text
        assert accounts.exists(engine)
        context = chromium.new_context()
        page = context.new_page()
        page.goto(console.base)
        expect(page).to_have_url(re.compile("/login"))
        context.close()
    engine.dispose()
