"""The report's plots as inline SVG without a display, a file or the network; colours are the page's CSS variables.

A figure is drawn with placeholder colours that matplotlib writes into the SVG as they are, and each is then replaced by
`currentColor` or `var(--...)`, so that one drawing is right in a dark page and in a light one.
"""

from __future__ import annotations

import io
import re
from html import escape
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from firmware_sim.detection import KindReport, SizeReport
    from firmware_sim.report import Report

TEXT, GRID = "#010203", "#010204"
SERIES = tuple(f"#0102{n:02x}" for n in range(0x10, 0x18))
_MEANT = {TEXT: "currentColor", GRID: "var(--grid)", **{colour: f"var(--c{n})" for n, colour in enumerate(SERIES)}}
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and takes the page's colour
    "svg.hashsalt": "covey",  # the same report gives the same bytes
    "text.parse_math": False,  # names are not formulas
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "legend.frameon": False,
}
_MAX_POINTS = 200  # of detection delays in one row
_MAX_LABELS = 12  # of notes on the time line
_MAX_PANELS = 12


def timeline_svg(report: Report) -> str:
    """Rates of written, received and acknowledged events, the backlog below, the fleet's notes as vertical lines."""
    line = report.timeline
    with mpl.rc_context(_STYLE):
        rows = 3 if line.devices else 2
        figure = Figure(figsize=(9.5, 1.4 + 1.5 * rows), layout="constrained")
        panels = figure.subplots(rows, 1, sharex=True)
        t_s = np.array(line.t_s)
        step_s = t_s[0]
        for n, (name, counts) in enumerate(
            (("written", line.written), ("received", line.received), ("acknowledged", line.acknowledged))
        ):
            panels[0].plot(t_s, np.array(counts) / step_s, color=SERIES[n], linewidth=1.4, label=name)
        panels[0].set_ylabel("events a second")
        panels[1].fill_between(t_s, line.backlog, step="pre", color=SERIES[3], alpha=0.35, linewidth=0)
        panels[1].plot(t_s, line.backlog, drawstyle="steps-pre", color=SERIES[3], linewidth=1)
        panels[1].set_ylabel("not acknowledged")
        if rows == 3:
            for n, (what, counts) in enumerate(line.devices.items()):
                panels[2].plot(t_s, counts, drawstyle="steps-pre", color=SERIES[n], linewidth=1.2, label=what)
            panels[2].set_ylabel("devices a step")
        for panel in panels:
            panel.set_ylim(bottom=0)
            for mark in line.marks:
                panel.axvline(mark.t_s, color=TEXT, linewidth=0.8, linestyle=":")
            if panel is not panels[1]:
                panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        for mark in line.marks[:_MAX_LABELS]:
            at = (mark.t_s, 1.0)
            panels[0].text(*at, f" {mark.what}", transform=panels[0].get_xaxis_transform(), rotation=40, va="bottom")
        panels[-1].set_xlabel("seconds after the start")
        told = (
            f"{report.written} events written, {report.acknowledged} acknowledged; most waiting: {max(line.backlog)}."
        )
        return _svg(figure, "timeline", f"Time line of events. {told} {len(line.marks)} notes are marked.")


def delivery_svg(report: Report) -> str:
    """Share of events delivered within a time, by link profile."""
    links = [one for one in report.delivery if one.by == "link" and one.delay_s.n][: len(SERIES)]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.5, 3.2), layout="constrained")
        panel = figure.subplots()
        edges = np.array(report.delay_edges_s)
        told = []
        for n, one in enumerate(links):
            within = np.cumsum(one.counts) / max(1, one.delay_s.n)
            panel.plot(edges[1:], within, color=SERIES[n], drawstyle="steps-post", linewidth=1.5, label=one.name)
            told.append(f"{one.name}: median {_seconds(one.delay_s.p50)}, 95 % within {_seconds(one.delay_s.p95)}")
        top = max((one.delay_s.max or 0.0 for one in links), default=0.0)
        panel.set(xscale="log", xlim=(1e-3, max(1.0, 2 * top)), ylim=(0, 1.02), ylabel="share delivered within")
        panel.xaxis.set_major_formatter("{x:g}")  # the default one writes formulas
        panel.set_xlabel("s from writing on the device to receipt in Kafka")
        if links:
            panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return _svg(figure, "delivery", "Delivery delay by link. " + "; ".join(told) + ".")


def delay_svg(report: Report) -> str:
    """Detection delays of each kind of fault: box and points."""
    kinds = [one for one in report.detection.kinds if one.delays_s and one.category == "fault"][::-1]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.5, 1.1 + 0.45 * max(1, len(kinds))), layout="constrained")
        panel = figure.subplots()
        if kinds:
            line = {"color": TEXT, "linewidth": 1}
            panel.boxplot(
                [one.delays_s for one in kinds],
                orientation="horizontal",
                showfliers=False,
                widths=0.5,
                boxprops=line,
                whiskerprops=line,
                capprops=line,
                medianprops={"color": SERIES[1], "linewidth": 2},
            )
        for n, one in enumerate(kinds, 1):
            shown = one.delays_s[:: -(-len(one.delays_s) // _MAX_POINTS)]
            spread = np.linspace(-0.18, 0.18, len(shown)) if len(shown) > 1 else [0.0]
            panel.plot(shown, n + np.array(spread), "o", color=SERIES[0], alpha=0.5, markersize=3, markeredgewidth=0)
        panel.set_yticks(range(1, len(kinds) + 1), [one.kind for one in kinds])
        panel.set_xlim(left=0)
        panel.set_xlabel("s from onset to alarm (detected faults only)")
        told = [f"{one.kind}: median {_seconds(one.delay_s.p50)} of {len(one.delays_s)}" for one in kinds[::-1]]
        return _svg(figure, "delay", "Detection delay by kind of fault. " + "; ".join(told) + ".")


def recall_svg(report: Report) -> str:
    """Recall of each kind of fault, by size where it has one."""
    kinds = [one for one in report.detection.kinds if one.reached and one.category == "fault"][:_MAX_PANELS]
    with mpl.rc_context(_STYLE):
        columns = min(3, max(1, len(kinds)))
        rows = max(1, -(-len(kinds) // columns))
        figure = Figure(figsize=(9.5, 2.1 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        told = [_recall_bars(panel, one) for panel, one in zip(panels, kinds, strict=False)]
        for panel in panels[len(kinds) :]:
            panel.set_axis_off()
        return _svg(figure, "recall", "Recall by kind of fault and size. " + "; ".join(told) + ".")


def _recall_bars(panel: Axes, one: KindReport) -> str:
    bars = _main_size(one)
    names = [bar.label for bar in bars] or ["all"]
    counts = [(bar.detected, bar.reached - bar.masked) for bar in bars] or [(one.detected, one.reached - one.masked)]
    for n, (detected, of) in enumerate(counts):
        panel.bar(n, detected / of if of else 0.0, color=SERIES[0], width=0.7)
        panel.text(n, (detected / of if of else 0.0) + 0.02, f"{detected}/{of}", ha="center", va="bottom", fontsize=8)
    panel.set_xticks(range(len(names)), names, fontsize=8, rotation=25 if len("".join(names)) > 24 else 0)
    panel.set_ylim(0, 1.18)
    panel.set_yticks((0, 0.5, 1))
    panel.set_xlim(-0.6, len(names) - 0.4)
    panel.grid(visible=False, axis="x")
    panel.set_title(one.kind, fontsize=9)
    panel.set_xlabel(bars[0].parameter if bars else "")
    return f"{one.kind}: {one.detected} of {one.reached - one.masked}"


def _main_size(one: KindReport) -> list[SizeReport]:
    """The numeric parameter with most ranges, at most eight of them."""
    by_name: dict[str, list[SizeReport]] = {}
    for size in one.sizes:
        if size.low is not None:
            by_name.setdefault(size.parameter, []).append(size)
    several = [sizes for sizes in by_name.values() if 1 < len(sizes) <= 8]
    return max(several, key=len, default=[])


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g} s"


def _svg(figure: Figure, name: str, alternative: str) -> str:
    """Markup of a figure to stand in a page, with a text for those who do not see it."""
    buffer = io.StringIO()
    meta: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=meta, transparent=True)
    markup = buffer.getvalue()
    markup = markup[markup.index("<svg") :]
    markup = re.sub(r"<metadata>.*?</metadata>", "", markup, flags=re.DOTALL)
    markup = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", markup)  # several drawings share one page
    for colour, meant in _MEANT.items():
        markup = markup.replace(colour, meant)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', markup)
    width = size[1] if size else "700"
    told = f'<svg role="img" aria-label="{escape(alternative, quote=True)}" style="max-width:{width}px" '
    return re.sub(
        r'^<svg |(?<= )(?:width|height)="[\d.]+pt" ', lambda found: told if found[0] == "<svg " else "", markup, count=3
    )


def kinds_of(report: Report, category: str) -> Sequence[KindReport]:
    """Kinds of one category."""
    return [one for one in report.detection.kinds if one.category == category]
