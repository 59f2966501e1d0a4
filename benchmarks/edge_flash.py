"""Bytes that a message costs the flash, on a small ext4 of its own: what its block device was given to write.

Three writers by turns: the outbox; a plain SQLite table (rollback journal, synchronous FULL), insert and delete; a file that
is appended to and flushed (fdatasync), the least that an ext4 does. Each message is made durable, and forgotten when the
cloud has it. Run by bench_edge.py as root, in a mount namespace that ends with it.

    python benchmarks/edge_flash.py FOLDER MESSAGES MESSAGE_BYTES
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from edge.outbox import Outbox  # noqa: E402  # needs the path above
from harm import images  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGE_MB = 96


def outbox(point: Path, messages: int, body: bytes, group: int) -> None:
    with Outbox(point / "outbox.db", "d1") as box:
        for _ in range(messages // group):
            first = box.last_seq + 1
            for _ in range(group):
                box.put("summary", lambda _: body)
            assert box.commit(), box.trouble
            assert box.acknowledge(box.places(box.id, [(first, box.last_seq)])) == group


def table(point: Path, messages: int, body: bytes, group: int) -> None:
    db = sqlite3.connect(point / "plain.db", isolation_level=None)
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE rows (seq INTEGER PRIMARY KEY, body BLOB)")
    for n in range(messages // group):
        rows = [(n * group + k, body) for k in range(group)]
        db.execute("BEGIN")
        db.executemany("INSERT INTO rows VALUES (?, ?)", rows)
        db.execute("COMMIT")
        db.execute("DELETE FROM rows WHERE seq >= ?", (n * group,))
    db.close()


def appended(point: Path, messages: int, body: bytes, group: int) -> None:
    fd = os.open(point / "plain.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    for _ in range(messages // group):
        os.write(fd, body * group)
        os.fdatasync(fd)
    os.close(fd)


WRITERS: dict[str, Callable[[Path, int, bytes, int], None]] = {"outbox": outbox, "table": table, "append": appended}


def main() -> None:
    folder, messages, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    body = os.urandom(size // 2).hex().encode()
    out: dict[str, float] = {}
    for group in (1, 10):
        for name, write in WRITERS.items():
            image = folder / f"{name}-{group}.img"
            images.make_image(image, IMAGE_MB)
            with images.mounted(image, folder / f"{name}-{group}") as point:
                os.sync()
                before = images.written_bytes(point)
                write(point, messages, body, group)
                os.sync()
                out[f"{name}_{group}"] = (images.written_bytes(point) - before) / messages
            image.unlink()
    print(json.dumps(out))


if __name__ == "__main__":
    main()
