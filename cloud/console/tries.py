"""How often a login may be tried, over all consoles of a store: the token buckets of limits.py as rows, by name and by address.

Time is the wall clock's, which consoles on several machines share well enough for minutes. A bucket that is empty costs a look and no write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from cloud.console import limits
from cloud.store import schema, tables

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine


class Tries:
    """So many tries of a name over a window, and three times as many of an address."""

    def __init__(self, engine: Engine, tries: int, window_s: float) -> None:
        self._engine, self._tries, self._window_s = engine, tries, window_s

    def wait_s(self, name: str | None, address: str, now_s: float) -> float:
        """Count one try of a name and of an address: 0, or how many seconds until both have one left.

        Args:
            name: None: only the address counts.
            address: of the browser.
            now_s: seconds since the epoch.

        Raises:
            StoreError: the store is out of reach.
        """
        bursts = {f"address {limits.network(address)}": 3 * self._tries}
        if name is not None:
            bursts = {_of_name(name): self._tries, **bursts}
        table = tables.login_tries
        with schema.read(self._engine) as connection:
            rows = connection.execute(sa.select(table).where(table.c.key.in_(list(bursts)))).all()
        waits = [limits.take(row.tokens, row.at_s, now_s, bursts[row.key], self._window_s)[1] for row in rows]
        if len(waits) == len(bursts) and all(waits):
            return max(waits)
        with schema.write(self._engine) as connection:
            # Full again. Those that another console holds are left to it: the two would wait for each other in a circle.
            full = (
                sa.select(table.c.key).where(table.c.at_s <= now_s - self._window_s).with_for_update(skip_locked=True)
            )
            connection.execute(sa.delete(table).where(table.c.key.in_(full)))
            return max(self._take(connection, key, burst, now_s) for key, burst in bursts.items())

    def forgive(self, name: str) -> None:
        """Give a name all its tries back: who it is has been shown."""
        table = tables.login_tries
        with schema.write(self._engine) as connection:
            connection.execute(sa.delete(table).where(table.c.key == _of_name(name)))

    def _take(self, connection: Connection, key: str, burst: int, now_s: float) -> float:
        table = tables.login_tries
        mine = schema.insert(connection, table).values(key=key, tokens=float(burst), at_s=now_s)
        # The change of nothing holds the row until the transaction's end: another console's try of the same waits for it.
        held = mine.on_conflict_do_update(index_elements=["key"], set_={"tokens": table.c.tokens})
        row = connection.execute(held.returning(table.c.tokens, table.c.at_s)).one()
        left, wait_s = limits.take(row.tokens, row.at_s, now_s, burst, self._window_s)
        if not wait_s:
            changed = {"tokens": left, "at_s": max(now_s, row.at_s)}
            connection.execute(sa.update(table).where(table.c.key == key).values(changed))
        return wait_s


def _of_name(name: str) -> str:
    return f"name {name[:64]}"
