"""The report as one HTML file: no network, no script, dark and light by CSS, every text from outside escaped."""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING

from firmware_sim.report_text import delivery_rows, detection_rows, verdict_rows, worst_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firmware_sim.report import Report
    from firmware_sim.report_text import Table

_CSS = """
:root { color-scheme: light dark; --back: #fff; --text: #1c2024; --soft: #5c6670; --grid: #dfe3e8; --good: #17753a; --bad: #b3261e;
  --c0: #1f6fb4; --c1: #d1620f; --c2: #2b8a4a; --c3: #8a4fb5; --c4: #b3261e; --c5: #7a5a3c; --c6: #c2478f; --c7: #5c6670; }
@media (prefers-color-scheme: dark) { :root { --back: #15181c; --text: #e4e8ec; --soft: #9aa5b1; --grid: #343a42; --good: #5fcf87; --bad: #ff8a80;
  --c0: #6fb1ea; --c1: #f5a35c; --c2: #6fd08f; --c3: #c39be6; --c4: #ff8a80; --c5: #c9a684; --c6: #f08cc4; --c7: #9aa5b1; } }
body { background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; } p { margin: .4rem 0; }
.soft, caption { color: var(--soft); } .verdict { font-weight: 600; font-size: 1.1rem; } .good { color: var(--good); } .bad { color: var(--bad); }
svg { width: 100%; height: auto; display: block; } code { font-size: .9em; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--grid); white-space: nowrap; }
td.n, th.n { text-align: right; } caption { text-align: left; font-size: .85rem; }
"""


def page(report: Report) -> str:
    """The whole document."""
    from firmware_sim import report_plots as plots

    verdict = "clean" if report.clean else "not clean"
    title = f"covey sim report: {report.scenario or 'a fleet'}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict {"good" if report.clean else "bad"}">Verdict: {verdict}</p>',
        f'<p class="soft">{escape(_about(report))}</p>',
        _table(("", "events"), verdict_rows(report)),
        _problems(report),
        "<h2>Time line</h2>",
        plots.timeline_svg(report),
        _marks(report),
        "<h2>Delivery</h2>",
        plots.delivery_svg(report),
        _table(*delivery_rows(report)),
        "<h2>Detection</h2>",
        f"<p>{escape(_alarms(report))}</p>",
        plots.delay_svg(report) if plots.kinds_of(report, "fault") else "",
        plots.recall_svg(report) if plots.kinds_of(report, "fault") else "",
        _table(*detection_rows(report)) if report.detection.kinds else "<p>Nothing was wrong with any device.</p>",
        "<h2>Devices, worst first</h2>",
        _table(*worst_rows(report)),
    ]
    body = "\n".join(part for part in parts if part)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_CSS}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def _about(report: Report) -> str:
    began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(report.start_s))
    told = f"{report.devices} devices, {report.device_hours:.3g} device hours, {report.flight_hours:.3g} flight hours, from {began}"
    seed = "" if report.seed is None else f", seed {report.seed}"
    live = ". The simulator was still writing: these figures move" if report.live else ""
    return f"{told}{seed}{live}."


def _alarms(report: Report) -> str:
    seen = report.detection
    rate = seen.false_alarms_per_flight_hour
    told = "no flight without a fault" if rate is None else f"{rate:.3g} false alarms per fault-free flight hour"
    return (
        f"{seen.arrived} alarms arrived of {seen.raised} raised: {seen.true_alarms} during a fault, {seen.drift_alarms} during a drift "
        f"only, {seen.false_alarms} with nothing wrong ({told}). {seen.never_ended} never ended, {seen.ends_missing} ends did not arrive."
    )


def _problems(report: Report) -> str:
    if not report.problems:
        return ""
    lines = [f"<li>{one.what.replace('_', ' ')}: <code>{escape(one.event)}</code></li>" for one in report.problems]
    return f"<p>The first of each:</p><ul>{''.join(lines)}</ul>"


def _marks(report: Report) -> str:
    rows: list[Sequence[str]] = [(f"{one.t_s:.1f}", one.what, one.detail) for one in report.timeline.marks]
    return _table(("s after start", "what", "detail"), rows) if rows else ""


def _table(columns: Sequence[str], rows: Table) -> str:
    head = "".join(f'<th scope="col"{_side(n)}>{escape(one)}</th>' for n, one in enumerate(columns))
    lines = ("".join(f"<td{_side(n)}>{escape(one)}</td>" for n, one in enumerate(row)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _side(n: int) -> str:
    return ' class="n"' if n else ""
