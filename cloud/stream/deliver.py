"""The part `deliver`: tries what `route` has written down, until it is taken or given up.

A target has a worker of its own, so a slow one holds up nobody else. Deliveries are claimed for a while before they are tried:
another instance leaves them alone, and those of a killed one come back. So a target hears at least once, with the same id each time.
Mails: what is due together goes together, and stays together over tries.
"""

from __future__ import annotations

import logging
import random
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from cloud.store import schema, tables
from cloud.stream import mail, retry, webhook
from covey import wire
from covey.errors import StoreError
from covey.runtime import Backoff
from covey.wire_alarms import decode_routed

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from sqlalchemy.engine import Engine

    from cloud.stream.gauges import Metrics
    from cloud.stream.rules_file import Routing

_log = logging.getLogger("cloud.deliver")

LOOK_S = 0.25
TAKE = 200  # deliveries of a target claimed at once; what is not tried in time is put back
GO_ON_S = 5.0  # a worker claims more of its target for so long; then the rules are looked at again
SETTLE_S = 0.25  # what was answered is written down at least so often, in one transaction
MOST_DUE = 1000
MOST_TARGETS = 128  # at work at once
MAX_MAIL = 50  # alarms in one message
MARGIN_S = 5.0  # a claim lasts for one try and so much more


_KEY = [tables.deliveries.c[name] for name in ("device", "outbox", "seq", "target")]


class Due(NamedTuple):
    """A delivery that was claimed."""

    identity: wire.Identity
    target: str
    tries: int  # this one counted
    next_s: float  # before it was claimed: those of one mail share it
    made_s: float
    body: bytes


class Deliver:
    """Everything that is due, with a worker a target."""

    name = "deliver"

    def __init__(self, routing: Callable[[], Routing], engine: Engine, metrics: Metrics, stop: threading.Event) -> None:
        """`routing`: the rules as they are now; asked every turn."""
        self._now, self._engine, self._metrics, self._stop = routing, engine, metrics, stop
        self._at_work: dict[str, Future[None]] = {}
        self._rng = random.Random()  # noqa: S311  # jitter, not a secret
        self._count_at = 0.0

    def run(self) -> None:
        """Until stopped; what is being tried then is waited for."""
        backoff = Backoff(cap_s=5.0)
        with ThreadPoolExecutor(MOST_TARGETS, "deliver") as pool:  # it starts as many as are at work together
            while not self._stop.is_set():
                try:
                    self._turn(pool)
                    backoff.reset()
                    wait_s = LOOK_S
                except StoreError as error:
                    _log.warning("%s; trying again", error)
                    wait_s = backoff.next_s()
                self._stop.wait(wait_s)

    def _turn(self, pool: ThreadPoolExecutor) -> None:
        for target, work in list(self._at_work.items()):
            if work.done():
                del self._at_work[target]
                work.result()  # what went wrong there and is no outage ends us
        now, routing = time.time(), self._now()
        # Those at work are left out, so that what waits for a slow target hides nobody else's.
        due = self._due(now, tables.deliveries.c.target.not_in(list(self._at_work)), MOST_DUE)
        for target in dict.fromkeys(one.target for one in due):
            mine = [one for one in due if one.target == target]
            if target not in routing.webhooks and target not in routing.mailboxes:
                answer = webhook.Answer(taken=False, error="no such target in the rules", again=False)
                self._settle([(mine, answer)])
                continue
            some = _together(mine) if target in routing.mailboxes else mine[:TAKE]
            claimed = self._claim(some, now, now + _lease_s(routing, target))
            if claimed:
                self._at_work[target] = pool.submit(self._work, routing, target, claimed)
        if now >= self._count_at:
            self._count_at = now + 5.0
            query = sa.select(sa.func.count()).where(tables.deliveries.c.state == "waiting")
            with schema.read(self._engine) as connection:
                self._metrics.delivery_waiting.set(connection.execute(query).scalar_one())

    def _due(self, now: float, whose: sa.ColumnElement[bool], most: int) -> list[Due]:
        table = tables.deliveries
        query = (
            sa.select(table)
            .where(table.c.state == "waiting", table.c.next_s <= now, whose)
            .order_by(table.c.next_s, table.c.device, table.c.seq)
            .limit(most)
        )
        with schema.read(self._engine) as connection:
            return [
                Due(
                    wire.Identity(row.device, row.outbox, row.seq),
                    row.target,
                    row.tries,
                    row.next_s,
                    row.made_s,
                    row.body,
                )
                for row in connection.execute(query)
            ]

    def _claim(self, due: Sequence[Due], now: float, until: float) -> list[Due]:
        """Those that no other instance has taken meanwhile."""
        table = tables.deliveries
        # One statement for all; a row that another instance has at hand is passed over, so that neither waits for the other.
        free = (
            sa.select(*_KEY)
            .where(sa.tuple_(*_KEY).in_([_key(one) for one in due]), table.c.state == "waiting", table.c.next_s <= now)
            .with_for_update(skip_locked=True)
        )
        change = sa.update(table).where(sa.tuple_(*_KEY).in_(free)).values(next_s=until, tries=table.c.tries + 1)
        with schema.write(self._engine) as connection:
            claimed = {tuple(row) for row in connection.execute(change.returning(*_KEY))}
        return [one._replace(tries=one.tries + 1) for one in due if _key(one) in claimed]

    def _work(self, routing: Routing, target: str, due: Sequence[Due]) -> None:
        hook = routing.webhooks.get(target)
        if hook is None:
            self._settle([(due, self._tell(due, partial(_mail, routing, target, due)))])
            return
        end = time.monotonic() + GO_ON_S
        with webhook.Line(hook) as line:
            while due and self._post_all(line, due) and time.monotonic() < end:
                now = time.time()
                due = self._due(now, tables.deliveries.c.target == target, TAKE)
                due = self._claim(due, now, now + _lease_s(routing, target)) if due else []

    def _post_all(self, line: webhook.Line, due: Sequence[Due]) -> bool:
        """Try each; False: some were put back, and it is not the time for more."""
        done: list[tuple[Sequence[Due], webhook.Answer]] = []
        began = settled = time.monotonic()
        whole = True
        for n, one in enumerate(due):
            late = n > 0 and time.monotonic() - began > MARGIN_S  # the claim may not last for another try
            if late or self._stop.is_set():
                self._put_back(due[n:], 0.0)
                whole = False
                break
            answer = self._tell([one], partial(line.post, str(one.identity), one.body))
            done.append(([one], answer))
            if answer.busy:
                self._put_back(due[n + 1 :], answer.asked_s or retry.BASE_S)
                whole = False
                break
            if time.monotonic() - settled >= SETTLE_S:
                self._settle(done)
                done, settled = [], time.monotonic()
        self._settle(done)
        return whole

    def _put_back(self, due: Sequence[Due], wait_s: float) -> None:
        """Give back what was claimed and not tried."""
        at_s = time.time() + wait_s
        self._write_down([(one, {"next_s": at_s, "tries": one.tries - 1}) for one in due])

    def _tell(self, due: Sequence[Due], tell: Callable[[], webhook.Answer]) -> webhook.Answer:
        began = time.monotonic()
        answer = tell()
        target = due[0].target
        self._metrics.delivery_seconds.labels(target).observe(time.monotonic() - began)
        self._metrics.deliveries.labels(target, "taken" if answer.taken else "failed").inc(len(due))
        if not answer.taken:
            about = {"device": due[0].identity.device, "stage": self.name}
            _log.warning("%s: %s: %s", target, due[0].identity, answer.error, extra=about)
        return answer

    def _settle(self, done: Sequence[tuple[Sequence[Due], webhook.Answer]]) -> None:
        """Write down what became of deliveries; those of one answer went together and stay together."""
        now = time.time()
        changes: list[tuple[Due, dict[str, object]]] = []
        for due, answer in done:
            again = None
            if not answer.taken and answer.again:
                oldest = min(one.made_s for one in due)
                again = retry.next_try(now, oldest, max(1, due[0].tries), answer.asked_s, self._rng)
            values: dict[str, object] = {"error": answer.error}
            if again is not None:
                values["next_s"] = again
            else:
                values |= {"state": "delivered" if answer.taken else "failed", "done_s": now}
            changes += [(one, values) for one in due]
        self._write_down(changes)

    def _write_down(self, changes: Sequence[tuple[Due, dict[str, object]]]) -> None:
        """In one transaction, as often as it takes; a claim that is never settled is tried again."""
        backoff = Backoff(cap_s=2.0)
        alike: dict[tuple[str, ...], list[dict[str, object]]] = {}  # columns -> rows: a statement for each
        for one, values in changes:
            row = {f"its_{column.name}": value for column, value in zip(_KEY, _key(one), strict=True)}
            alike.setdefault(tuple(values), []).append(row | values)
        mine = [column == sa.bindparam(f"its_{column.name}") for column in _KEY]
        while changes:
            try:
                with schema.write(self._engine) as connection:
                    for names, rows in alike.items():
                        change = sa.update(tables.deliveries).where(*mine, tables.deliveries.c.state == "waiting")
                        connection.execute(change.values({name: sa.bindparam(name) for name in names}), rows)
                return
            except StoreError as error:
                _log.warning("%s; trying again", error)
                if self._stop.wait(backoff.next_s()):
                    return


def _lease_s(routing: Routing, target: str) -> float:
    hook, smtp = routing.webhooks.get(target), routing.smtp
    if hook is not None:
        return hook.timeout_s + MARGIN_S
    return 2 * (smtp.timeout_s if smtp is not None else 0.0) + MARGIN_S


def _mail(routing: Routing, target: str, due: Sequence[Due]) -> webhook.Answer:
    smtp = routing.smtp
    if smtp is None:
        return webhook.Answer(taken=False, error="no [smtp] in the rules", again=False)
    alarms = [(str(one.identity), one.identity.device, decode_routed(one.body)[1]) for one in due]
    return mail.send(smtp, mail.compose(smtp, routing.mailboxes[target], alarms))


def _key(one: Due) -> tuple[str, str, int, str]:
    return (*one.identity, one.target)


def _together(due: Sequence[Due]) -> list[Due]:
    """What goes into the next mail: one that was tried before as it was, or all that is new. Pure.

    Deliveries of one mail were claimed together, so they share the time of their next try and their number of tries.
    """
    first = due[0]
    if first.tries == 0:
        return [one for one in due if one.tries == 0][:MAX_MAIL]
    return [one for one in due if (one.next_s, one.tries) == (first.next_s, first.tries)]
