"""What the terminal's watch shows, as text: a strip a group, a line an alarm, a page of why. Pure: pictures in, rich text out.

Status is told by shape and colour, as in the browser; names come from devices, so nothing is read as markup.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.text import Text

from cloud.console.status import STATUSES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cloud.console.fleet import Cells, Picture, Waiting
    from cloud.console.status import Status

SHAPES: dict[str, str] = {"alarm": "▲", "watch": "◆", "silent": "○", "updating": "↻", "ok": "■"}
COLOURS: dict[str, str] = {
    "alarm": "#ff6b3d",
    "watch": "#f0b429",
    "silent": "#8b98a8",
    "updating": "#4cc3ff",
    "ok": "#3d5a80",
}
_NAME = 16  # columns of a group's name
_RANK = {status: at for at, status in enumerate(STATUSES)}  # the worst first


def counts_line(counts: Mapping[str, int]) -> Text:
    """The five counts and the inbox."""
    line = Text()
    for status in STATUSES:
        line.append(f"{SHAPES[status]} {counts.get(status, 0):,} ", COLOURS[status])
        line.append(f"{status}   ", "dim")
    line.append(f"{counts.get('inbox', 0):,} ", "bold")
    line.append("need a verdict", "dim")
    return line


def strips(picture: Picture, width: int) -> Text:
    """A line a group: its name, a strip in which each cell has the worst status of its share of devices, its counts.

    Args:
        picture: a whole one, of `Fleet.snapshot`.
        width: columns of the terminal.
    """
    groups = picture.groups or []
    of: dict[int, list[Status]] = {}
    cells: Sequence[Cells] = picture.devices or []
    for cell in cells:
        of.setdefault(cell[1], []).append(cell[2])
    room = max(10, width - _NAME - 44)
    text = Text()
    for number, group in enumerate(groups):
        statuses = of.get(number, [])
        if not statuses:
            continue
        text.append(f"{group.name[: _NAME - 1]:<{_NAME}}", "bold")
        length = min(room, len(statuses))
        for at in range(length):
            part = statuses[at * len(statuses) // length : (at + 1) * len(statuses) // length]
            worst = min(part, key=_RANK.__getitem__)
            text.append(SHAPES[worst], COLOURS[worst])
        text.append(f"  {len(statuses):,} ", "dim")
        for status in STATUSES[:-1]:
            count = statuses.count(status)
            if count:
                text.append(f" {SHAPES[status]}{count}", COLOURS[status])
        text.append("\n")
    return text


def alarm_cells(alarm: Waiting, now_s: float) -> list[Text]:
    """A line of the list of alarms."""
    begun = alarm.state == "begin"
    mark = Text(SHAPES["alarm"] if begun else "△", COLOURS["alarm"] if begun else "dim")
    age = max(0.0, now_s - alarm.begin_s)
    return [
        mark,
        Text(alarm.device),
        Text(alarm.group),
        Text(alarm.channel),
        Text(f"{alarm.ratio:.2f}×", justify="right"),  # noqa: RUF001  # "times"
        Text(_age(age), justify="right"),
    ]


def matches(alarm: Waiting, words: str) -> bool:
    """Whether each word of a filter is part of the alarm's device, group or channel."""
    told = f"{alarm.device} {alarm.group} {alarm.channel}".lower()
    return all(word in told for word in words.lower().split())


def why_page(chain: Mapping[str, Any]) -> Text:
    """A chain of cloud/store/why.py, told in the order in which it came about."""
    text = Text()
    alarm, score = chain.get("alarm") or {}, chain.get("score") or {}
    shares = (chain.get("attribution") or {}).get("shares", {})
    cause = (chain.get("attribution") or {}).get("top_channel", "")
    threshold = score.get("threshold") or 0.0
    ratio = f"{score.get('score', 0.0) / threshold:.2f} times its threshold" if threshold else "an alarm"
    text.append(f"{cause} drove {chain['device']} to {ratio}\n", "bold")
    window, model, stored = chain.get("window") or {}, chain.get("model") or {}, chain.get("stored") or {}
    release = chain.get("release")
    signed = f"signed as release {release['number']} of {release['group']}" if release else "no release of ours"
    rows = [
        ("window", f"{_clock(window.get('start_s'))} to {_clock(window.get('end_s'))}", window.get("sha256", "")),
        ("model", f"release {model.get('release')} on {model.get('runtime')}, {signed}", model.get("digest", "")),
        ("score", f"{score.get('score', 0.0):.4g}, confidence {score.get('confidence', 0.0):.5g}", ""),
        ("alarm", f"{alarm.get('state', '')}, {alarm.get('windows', 0)} windows", chain["event"]),
        (
            "stored",
            "bytes match their hash" if stored.get("intact") else "BYTES DO NOT MATCH",
            stored.get("sha256", ""),
        ),
    ]
    for name, said, digest in rows:
        text.append(f"  {name:<8}", "dim")
        text.append(said)
        text.append(f"  {digest[:40]}\n" if digest else "\n", "dim")
    for channel, share in list(shares.items())[:8]:
        text.append(f"  {channel[:14]:<16}")
        text.append("█" * round(24 * share), COLOURS["alarm"] if channel == cause else COLOURS["ok"])
        text.append(f" {100 * share:.0f} %\n", "dim")
    return text


def _clock(time_s: float | None) -> str:
    return (
        "-" if time_s is None else time.strftime("%H:%M:%S", time.gmtime(time_s)) + f".{int(time_s * 1000) % 1000:03d}"
    )


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
