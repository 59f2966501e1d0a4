"""What operators set in the browser: releases, devices, training, accounts and what their roles let them; and how tabs share the line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from playwright.sync_api import expect

import console_rig as rig
from cloud.desk import accounts
from cloud.store import reader, schema, tables
from console_fleet import of_fleet
from console_pages import page_of
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


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[rig.Console, list[str]]]:
    """A console with an account of each role, and its devices."""
    with of_fleet(tmp_path_factory.mktemp("guarded"), 30, accounts=True) as (console, _, names):
        yield console, names


def log_in(page: Page, name: str, password: str = rig.PASSWORD) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.keyboard.press("Enter")


def streams(console: rig.Console) -> float:
    with console.client() as client:
        text = client.get("/metrics").text
    found = re.search(r"^covey_console_streams (\S+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_tabs_of_a_browser_share_one_line(running: tuple[rig.Console, Engine], chromium: Browser) -> None:
    console, _ = running
    wait_for(lambda: streams(console) == 0, 30, "lines of earlier pages end")
    with page_of(chromium, console) as page:
        for one in (page, page.context.new_page(), page.context.new_page()):
            one.goto(console.base)
            expect(one.get_by_text("live", exact=True)).to_be_visible()
        assert streams(console) == 1


def test_a_release_is_wanted_of_chosen_devices_and_then_of_its_group(
    running: tuple[rig.Console, Engine], chromium: Browser
) -> None:
    console, engine = running

    def wanted() -> list[str]:
        return [row["device"] for row in reader.fleet(engine) if row["desired"] == 1]

    with page_of(chromium, console, "/rollouts") as page:
        page.get_by_role("button", name="Want it").first.click()
        page.get_by_role("textbox").last.fill("d2")
        page.get_by_role("button", name="Want it of 1 device").click()
        wait_for(lambda: wanted() == ["d2"], 10, "release 1 wanted of d2")
        expect(page.get_by_text("1 device still to take a release")).to_be_visible()
        page.get_by_role("button", name="Want it").first.click()
        page.get_by_role("button", name="Want it of the whole group").click()
        wait_for(lambda: wanted() == ["d1", "d2", "d3"], 10, "release 1 wanted of the group")


def test_a_run_is_shown_with_its_rounds_and_grows_live(running: tuple[rig.Console, Engine], chromium: Browser) -> None:
    console, engine = running
    with page_of(chromium, console, "/learning") as page:
        expect(page.get_by_role("heading", level=1)).to_have_text("Round 1 of 2 with 1 device")
        line = wire.RoundEvent(rig.RUN, 6, rig.ev.now(), "round", 2, figures={"clients": 2.0, "loss": 0.25})
        with schema.write(engine) as connection:
            change = rig.changes.number(connection)
            row = {name: getattr(line, name) for name in ("run", "seq", "time_s", "kind", "round")}
            connection.execute(sa.insert(tables.rounds).values(**row, body=wire.encode(line), changed=change))
        expect(page.get_by_role("heading", level=1)).to_have_text("Round 2 of 2 with 2 devices", timeout=10_000)


def test_erasing_asks_for_the_name_and_the_device_is_gone_everywhere(
    running: tuple[rig.Console, Engine], chromium: Browser
) -> None:
    console, engine = running
    with page_of(chromium, console, "/devices/d3") as page:
        page.get_by_role("button", name="Erase its data").click()
        dialog = page.get_by_role("dialog")
        erase = dialog.get_by_role("button", name=re.compile("Erase"))
        expect(erase).to_be_disabled()
        dialog.get_by_role("textbox").fill("d3")
        erase.click()
        wait_for(lambda: reader.device(engine, "d3") is None, 10, "d3 is erased")
        page.goto(console.base)
        expect(page.locator("canvas").first).to_have_attribute("aria-label", re.compile("^2 devices"), timeout=10_000)


def test_an_address_of_every_page_can_be_loaded_anew(running: tuple[rig.Console, Engine], chromium: Browser) -> None:
    console, _ = running
    for path, text in [
        (f"/learning/{rig.RUN}", f"Run {rig.RUN}"),
        ("/admin", "Accounts"),
        ("/devices/d1", "d1"),
        ("/why/d1/a1", "d1"),
        ("/system", "Stages"),
    ]:
        with page_of(chromium, console, path) as page:
            expect(page.get_by_role("heading", name=re.compile(text)).first).to_be_visible()


def test_who_may_only_look_sees_no_controls_and_is_let_in_by_password_only(
    guarded: tuple[rig.Console, list[str]], chromium: Browser
) -> None:
    console, names = guarded
    with page_of(chromium, console) as page:
        expect(page).to_have_url(re.compile("/login"))
        log_in(page, "viewer", "not the password")
        expect(page.get_by_role("alert").first).to_be_visible()
        page.get_by_label("Password").fill(rig.PASSWORD)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_contain_text("alarm alike")
        expect(page.get_by_role("button", name="Add device")).to_have_count(0)
        page.goto(f"{console.base}/devices/{names[0]}")
        expect(page.get_by_role("heading", level=1)).to_contain_text(names[0])
        expect(page.get_by_role("button", name="Erase its data")).to_have_count(0)
        expect(page.get_by_role("button", name="Save")).to_have_count(0)
        forged = page.evaluate(
            "fetch('/api/devices', {method: 'POST', headers: {'Content-Type': 'application/json'}, body: '{\"device\": \"x\"}'}).then((r) => r.status)"
        )
        assert forged == 403


def test_an_admin_adds_an_account_and_the_audit_log_has_it(
    guarded: tuple[rig.Console, list[str]], chromium: Browser
) -> None:
    console, _ = guarded
    with page_of(chromium, console) as page:
        log_in(page, "admin")
        expect(page.get_by_role("heading", level=1)).to_contain_text("alarm alike")
        page.get_by_role("button", name="admin").click()
        page.get_by_role("link", name="Accounts and audit").click()
        form = page.get_by_role("region", name="Add an account")
        form.get_by_label("Name").fill("kim")
        form.get_by_label("Role").select_option("operator")
        form.get_by_label("Password").fill("another horse battery")
        form.get_by_role("button", name="Add").click()
        expect(page.get_by_label("Role of kim")).to_have_value("operator")
        page.reload()
        expect(page.get_by_role("region", name="Audit log", exact=True).first).to_contain_text("kim")
        page.get_by_role("button", name="admin").click()
        page.get_by_role("button", name="Log out").click()
        expect(page).to_have_url(re.compile("/login"))
        log_in(page, "kim", "another horse battery")
        expect(page.get_by_role("button", name="Add device")).to_be_visible()


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
        with page_of(chromium, console) as page:
            expect(page).to_have_url(re.compile("/login"))
    engine.dispose()
