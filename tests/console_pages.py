"""Pages of a console in Chromium; one whose scripts err, or that asks another host, fails its test."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Page, Request
    from typing_extensions import Self

    import console_rig as rig

# Emptied tabs of earlier tests by what they were opened with. A context is a profile: a process, a cache and fonts of its own, which is
# two thirds of a short test's CPU. What a person would have left in one (cookies, storage, other tabs) is taken out of it.
_spare: WeakKeyDictionary[Browser, dict[str, list[Page]]] = WeakKeyDictionary()


class _Watch:
    """What must not happen on a tab."""

    def __init__(self, page: Page, base: str) -> None:
        self.page, self.base = page, base
        self.wrong: list[str] = []

    def __enter__(self) -> Self:
        self.page.on("pageerror", self._error)
        self.page.on("console", self._message)
        self.page.on("request", self._request)
        return self

    def __exit__(self, *_: object) -> None:
        self.page.remove_listener("pageerror", self._error)
        self.page.remove_listener("console", self._message)
        self.page.remove_listener("request", self._request)

    def _error(self, error: Error) -> None:
        self.wrong.append(str(error))

    def _message(self, message: ConsoleMessage) -> None:
        # Chromium itself tells answers such as 401 as errors; they are looked at where they are meant.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.wrong.append(message.text)

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self.base, "data:", "blob:")):
            self.wrong.append(request.url)


@contextmanager
def page_of(
    browser: Browser, console: rig.Console, path: str = "/", *, before: str = "", **options: Any
) -> Iterator[Page]:
    """A page in a context with nothing of any other test in it; fails on errors of its scripts and on requests to any other host.

    Args:
        browser: the file's.
        console: whose page.
        path: below the console's address.
        before: a script that runs before the page's own; such a page is not used again.
        options: of the context; size and scheme have defaults.
    """
    options = {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark", **options}
    spare = _spare.setdefault(browser, {}).setdefault(repr(sorted(options.items())), [])
    page = spare.pop() if spare and not before else browser.new_context(**options).new_page()
    again = False
    try:
        if before:
            page.add_init_script(before)
        page.emulate_media(color_scheme=options["color_scheme"])  # an earlier test may have changed it
        with _Watch(page, console.base) as watch:
            page.goto(console.base + path)
            yield page
            if not before:
                _empty(page.context, page)
                again = True
        assert watch.wrong == [], watch.wrong
    finally:
        if again:
            spare.append(page)
        else:
            page.context.close()


def _empty(context: BrowserContext, page: Page) -> None:
    for tab in context.pages:
        if tab != page:
            tab.close()
    page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
    page.goto("about:blank")
    context.clear_cookies()
