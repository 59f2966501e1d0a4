"""A Chromium for a file's tests, and a console with a lively store."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from console_fleet import FLAGS, of_fleet
from processes import absent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser
    from sqlalchemy.engine import Engine

    from console_rig import Console


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, headless. Not for the session: while it is open, an event loop runs in this thread, and other files run their own."""
    path = shutil.which("chromium")
    if path is None:
        absent("chromium", "of Debian's package chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Console, Engine, list[str]]]:
    """A console with 300 devices and no accounts."""
    with of_fleet(tmp_path_factory.mktemp("fleet"), 300) as running:
        yield running
