"""Pages of a console in Chromium; one whose scripts err, or that asks another host, fails its test."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    import console_rig as rig


@contextmanager
def page_of(browser: Browser, console: rig.Console, path: str = "/", **options: Any) -> Iterator[Page]:
    """A page in a context of its own; fails on errors of its scripts and on requests to any other host."""
    options = {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark", **options}
    context = browser.new_context(**options)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on(
        "request",
        lambda request: None if request.url.startswith((console.base, "data:", "blob:")) else wrong.append(request.url),
    )
    page.goto(console.base + path)
    yield page
    context.close()
    # Chromium itself tells answers such as 401 as errors; they are looked at where they are meant.
    assert [one for one in wrong if "Failed to load resource" not in one] == []
