"""The report's tables as texts, for the terminal and the page. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firmware_sim.detection import Detection, KindReport
    from firmware_sim.report import Report

    Table = Sequence[Sequence[str]]


def number(value: float | str | None) -> str:
    """A cell: whole numbers as they are, others with three digits, - for what has no case."""
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def verdict_rows(report: Report) -> Table:
    """What became of the events."""
    pairs = (
        ("written", report.written),
        ("acknowledged", report.acknowledged),
        ("stored", report.stored),
        ("acknowledged and missing", report.lost.acknowledged_missing),
        ("duplicate", report.duplicate),
        ("conflicting", report.conflicting),
        ("unknown", report.unknown),
        ("still on the device", report.lost.on_device),
        ("late (after a later one)", report.late),
        ("holes", report.holes),
        ("foreign lines", report.foreign),
        ("received before written", report.early),
        ("payload bytes", report.volume.payload_bytes),
        ("payload bytes per device hour", report.volume.payload_bytes_per_device_hour),
        ("raw bytes for each payload byte", report.volume.saving),
    )
    return [(name, number(value)) for name, value in pairs]


def delivery_rows(report: Report) -> tuple[Sequence[str], Table]:
    """Columns and rows: all, by link, by kind."""
    columns = ("delivery, s", "devices", "events", "p50", "p95", "p99", "max")
    rows = [
        [number(v) for v in (one.name, one.devices, q.n, q.p50, q.p95, q.p99, q.max)]
        for one in report.delivery
        for q in (one.delay_s,)
    ]
    return columns, rows


def detection_rows(report: Report) -> tuple[Sequence[str], Table]:
    """Columns and rows: all faults, then kinds."""
    columns = [
        *("detection", "class", "planned", "reached", "detected", "missed", "masked", "recall", "precision"),
        *("false alarms", "delay p50", "p95", "max"),
    ]
    seen = report.detection
    named: list[tuple[str, str, Detection | KindReport]] = [("all faults", "fault", seen)]
    named += [(one.kind, one.category, one) for one in seen.kinds]
    lines: list[Sequence[float | str | None]] = []
    for name, category, one in named:
        counts = (one.planned, one.reached, one.detected, one.missed, one.masked, one.recall, one.precision)
        delay = one.delay_s
        lines.append((name, category, *counts, one.false_alarms, delay.p50, delay.p95, delay.max))
    return columns, [[number(cell) for cell in line] for line in lines]


def worst_rows(report: Report) -> tuple[Sequence[str], Table]:
    """Columns and rows: devices."""
    columns = [
        *("device", "link", "written", "stored", "acknowledged and missing", "on device", "duplicate"),
        *("conflicting", "unknown", "late", "longest delay, s"),
    ]
    rows = []
    for one in report.worst:
        found = (one.acknowledged_missing, one.on_device, one.duplicate, one.conflicting, one.unknown, one.late)
        rows.append([number(v) for v in (one.device, one.link, one.written, one.stored, *found, one.max_delay_s)])
    return columns, rows


def aligned(rows: Table) -> str:
    """Rows as lines: names to the left, figures to the right."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return "".join(
        "  ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        + "\n"
        for row in rows
    )
