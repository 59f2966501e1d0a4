"""`covey cloud watch` on a terminal: the fleet live, the alarms that need a verdict, why, and the verdict by one key.

The same view model as the browser's, read from the store by one thread; the screen's thread only draws.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, ClassVar, Literal

from rich.text import Text
from textual.app import App
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import DataTable, Footer, Input, Static

from cloud.console import rows, watch_view
from cloud.console.fleet import Fleet
from cloud.desk import audit, judge
from cloud.store.why import why
from covey.errors import CoveyError, StoreError
from covey.runtime import Backoff

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine
    from textual.app import ComposeResult

    from cloud.console.fleet import Picture, Waiting

_log = logging.getLogger("cloud.watch")

LOOK_S = 0.25
USUAL_S = 60.0
COLUMNS = ("mark", "device", "group", "channel", "score", "begun")
RELOAD_S = 3600.0  # what retention deleted leaves no changed row


class Watch(App[None]):
    """The terminal console.

    Args:
        engine: an open store.
        seconds: end by itself after so long; None: when told to.
    """

    TITLE = "covey"
    CSS = """
    #headline { text-style: bold; padding: 0 1; }
    #detail, #counts { padding: 0 1; }
    #strips { height: auto; max-height: 40%; padding: 1 1 0 1; }
    #alarms { width: 3fr; }
    #why { width: 2fr; padding: 0 1; border-left: solid $surface-lighten-2; }
    #filter { display: none; }
    #filter.shown { display: block; }
    """
    BINDINGS: ClassVar = [
        Binding("c", "say('confirmed')", "confirm"),
        Binding("x", "say('rejected')", "reject"),
        Binding("a", "say('acknowledged')", "acknowledge"),
        Binding("u", "undo", "undo"),
        Binding("w", "why", "why"),
        Binding("n", "next", "next alarm"),
        Binding("j", "move(1)", "down", show=False),
        Binding("k", "move(-1)", "up", show=False),
        Binding("slash", "filter", "filter"),
        Binding("escape", "clear", "clear", show=False),
        Binding("q", "quit", "quit"),
    ]

    def __init__(self, engine: Engine, seconds: float | None = None) -> None:
        super().__init__()
        self._engine = engine
        self._seconds = seconds
        self._leaving = threading.Event()
        self._actor = audit.command_line()
        self._alarms: dict[str, Waiting] = {}  # row key -> alarm, in the order shown
        self._picture: Picture | None = None
        self._told: list[tuple[str, str]] = []  # verdicts given here, the newest last

    def compose(self) -> ComposeResult:
        """The parts of the screen."""
        yield Static(id="headline", markup=False)
        yield Static(id="detail", markup=False)
        yield Static(id="counts", markup=False)
        yield VerticalScroll(Static(id="groups", markup=False), id="strips")
        with Horizontal():
            yield DataTable(id="alarms", cursor_type="row", zebra_stripes=True)
            yield VerticalScroll(Static("w: why this alarm", id="page", markup=False), id="why")
        yield Input(placeholder="device, group or channel", id="filter")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        table = self.query_one("#alarms", DataTable)
        for name in COLUMNS:
            table.add_column("" if name == "mark" else name, key=name)
        table.focus()
        threading.Thread(target=self._look, name="watch", daemon=True).start()
        if self._seconds is not None:
            self.set_timer(self._seconds, self.exit)

    def on_unmount(self) -> None:
        """The thread ends with the screen."""
        self._leaving.set()

    def action_say(self, verdict: Literal["acknowledged", "confirmed", "rejected"]) -> None:
        """A verdict on the alarm under the cursor."""
        alarm = self._chosen()
        if alarm is None:
            return
        if self._judge(alarm.device, alarm.alarm_id, verdict):
            self._told.append((alarm.device, alarm.alarm_id))
            self.notify(f"{alarm.device}: {verdict}; u takes it back")

    def action_undo(self) -> None:
        """Take the last verdict given here back."""
        if not self._told:
            self.notify("nothing was said here that could be taken back", severity="warning")
            return
        device, alarm_id = self._told.pop()
        if self._judge(device, alarm_id, "undone"):
            self.notify(f"{device}: taken back")

    def action_why(self) -> None:
        """The chain of the alarm under the cursor."""
        alarm = self._chosen()
        if alarm is None:
            return
        try:
            chains = why(self._engine, alarm.alarm_id)
        except CoveyError as error:
            self.notify(str(error), severity="error")
            return
        mine = [chain for chain in chains if chain["device"] == alarm.device] or chains
        self.query_one("#page", Static).update(watch_view.why_page(mine[0]))

    def action_next(self) -> None:
        """To the next alarm that is open."""
        table = self.query_one("#alarms", DataTable)
        states = [alarm.state for alarm in self._alarms.values()]
        order = [*range(table.cursor_row + 1, len(states)), *range(table.cursor_row + 1)]
        for row in order:
            if row < len(states) and states[row] == "begin":
                table.move_cursor(row=row)
                return

    def action_move(self, by: int) -> None:
        """Up or down the list."""
        table = self.query_one("#alarms", DataTable)
        table.move_cursor(row=max(0, min(table.row_count - 1, table.cursor_row + by)))

    def action_filter(self) -> None:
        """Ask which alarms to show."""
        field = self.query_one("#filter", Input)
        field.add_class("shown")
        field.focus()

    def action_clear(self) -> None:
        """Show all again."""
        field = self.query_one("#filter", Input)
        field.value = ""
        field.remove_class("shown")
        self.query_one("#alarms", DataTable).focus()

    def on_input_changed(self, _event: Input.Changed) -> None:
        """Filter as one types."""
        if self._picture is not None:
            self._list(self._picture)

    def on_input_submitted(self, _event: Input.Submitted) -> None:
        """Back to the list, filtered."""
        self.query_one("#alarms", DataTable).focus()

    def _chosen(self) -> Waiting | None:
        row, keys = self.query_one("#alarms", DataTable).cursor_row, list(self._alarms)
        return self._alarms[keys[row]] if 0 <= row < len(keys) else None

    def _judge(self, device: str, alarm_id: str, verdict: judge.Verdict) -> bool:
        try:
            judge.judge(self._engine, [(device, alarm_id)], verdict, "", self._actor)
        except CoveyError as error:
            self.notify(str(error), severity="error")
            return False
        return True

    def _look(self) -> None:
        """The store, until the screen is gone; what is out of reach is waited for, and said."""
        fleet, backoff = Fleet(), Backoff(cap_s=5.0)
        horizon = erased = 0
        reload_at = usual_at = 0.0
        while not self._leaving.is_set():
            pause_s, problem = LOOK_S, ""
            try:
                now = time.monotonic()
                found = None if now >= reload_at else rows.changed(self._engine, horizon)
                if found is None or found.erased != erased:
                    whole = rows.everything(self._engine)
                    fleet.expect(whole.usual)
                    fleet.replace(whole.devices, whole.alarms, time.time())
                    horizon, erased = whole.horizon, whole.erased
                    reload_at, usual_at = now + RELOAD_S, now + USUAL_S
                else:
                    fleet.take(found.devices, found.alarms, time.time())
                    horizon = found.horizon
                if now >= usual_at:
                    usual_at = now + USUAL_S
                    fleet.expect(rows.usual(self._engine, fleet.devices, time.time()))
                backoff.reset()
            except StoreError as error:
                problem, pause_s = str(error), max(LOOK_S, backoff.next_s())
            fleet.tick(time.time())
            try:
                self.call_from_thread(self._show, fleet.snapshot(), problem)
            except RuntimeError:  # the screen has gone meanwhile
                return
            self._leaving.wait(pause_s)

    def _show(self, picture: Picture, problem: str) -> None:
        if self._leaving.is_set() or not self.query("#headline"):  # the screen is going
            return
        self._picture = picture
        headline, counts = picture.headline, picture.counts
        if headline and counts:
            self.query_one("#headline", Static).update(Text(problem or headline.text, "#ff6b3d" if problem else ""))
            self.query_one("#detail", Static).update(Text(headline.detail, "dim"))
            self.query_one("#counts", Static).update(watch_view.counts_line(counts))
        self.query_one("#groups", Static).update(watch_view.strips(picture, self.size.width))
        self._list(picture)

    def _list(self, picture: Picture) -> None:
        words = self.query_one("#filter", Input).value
        wanted = {
            f"{alarm.device} {alarm.alarm_id}": alarm
            for alarm in picture.alarms or []
            if watch_view.matches(alarm, words)
        }
        table = self.query_one("#alarms", DataTable)
        chosen = self._chosen()
        if list(wanted) != list(self._alarms):
            table.clear()
            for key, alarm in wanted.items():
                table.add_row(*watch_view.alarm_cells(alarm, picture.now_s), key=key)
        else:
            for key, alarm in wanted.items():
                cells = watch_view.alarm_cells(alarm, picture.now_s)
                for name, cell in zip(COLUMNS, cells, strict=True):
                    if table.get_cell(key, name) != cell:
                        table.update_cell(key, name, cell)
        self._alarms = wanted
        if chosen is not None:
            key = f"{chosen.device} {chosen.alarm_id}"
            if key in wanted:  # the cursor stays with its alarm while others come
                table.move_cursor(row=list(wanted).index(key))
