"""The page of `covey sim realism`: table and plots in one file, nothing loaded from elsewhere. Draws, judges nothing."""

from __future__ import annotations

import html
import io
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from firmware_sim.realism import OFF, TUNED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firmware_sim.realism import Comparison, Group, Row

SIM, REAL = "#1b6ca8", "#d1495b"
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#1c2733}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #dde3e8}
td:first-child,th:first-child,td.t,th.t{text-align:left}tr.off td{background:#fdecea}svg{max-width:100%;height:auto}"""


def page(found: Comparison) -> str:
    """A whole HTML page."""
    off = sum(row.off for row in found.rows)
    told = (
        f"{off} of {len(found.rows)} figures are apart by more than a factor of {OFF:g}; their rows are marked. "
        "Where a figure helped to choose the simulator's constants, the last column says so: agreement there is no proof."
    )
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>covey sim realism</title>",
        f"<style>{_STYLE}</style><h1>Simulated against real flights</h1><p>{told}</p>",
        f"<h2>Spectra of the accelerations</h2>{_spectra(found)}",
        f"<h2>Each flight</h2>{_flights(found)}",
    ]
    names = dict.fromkeys(row.group for row in found.rows)
    parts += [f"<h2>{html.escape(name)}</h2>{_table([r for r in found.rows if r.group == name])}" for name in names]
    return "\n".join(parts) + "\n"


def _table(rows: Sequence[Row]) -> str:
    lines = ["<table><tr><th>figure<th>unit<th>sim<th>real<th>ratio<th class=t>off<th class=t>tuned"]
    for row in rows:
        unit, tuned = TUNED[row.figure]
        mark, said = (" class=off", "off") if row.off else ("", "")
        lines.append(
            f"<tr{mark}><td>{html.escape(row.figure)}<td>{unit}<td>{row.sim:.3g}<td>{row.real:.3g}<td>{row.ratio:.2f}"
            f"<td class=t>{said}<td class=t>{html.escape(tuned)}"
        )
    return "\n".join([*lines, "</table>"])


def _spectra(found: Comparison) -> str:
    names = [group.name for group in found.real]
    figure = Figure(figsize=(11, 2.6 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 2, squeeze=False, sharex=True, sharey=True)
    for line, name in enumerate(names):
        for groups, colour, label in ((found.real, REAL, "real"), (found.sim, SIM, "simulated")):
            for group in (g for g in groups if g.name == name):
                frequencies, density = group.spectra
                curves = (density[:2].mean(axis=0), density[2])
                for column, curve in enumerate(curves):
                    axes[line, column].semilogy(frequencies[1:], curve[1:], color=colour, label=label)
        for column, axis in enumerate(("x, y", "z")):
            axes[line, column].set_title(f"{name}: {axis}", fontsize=9)
            axes[line, column].grid(visible=True, alpha=0.3)
        axes[line, 0].set_ylabel("g\N{SUPERSCRIPT TWO}/Hz")
    axes[0, 0].legend()
    for column in (0, 1):
        axes[-1, column].set_xlabel("Hz")
    return _svg(figure, "spectra")


def _flights(found: Comparison) -> str:
    shown = (
        "ratio of the damaged rotor, change",
        "acceleration x within 1 s",
        "acceleration z within 1 s",
        "battery slope",
    )
    figure = Figure(figsize=(11, 6), layout="constrained")
    for axis, name in zip(figure.subplots(2, 2).flat, shown, strict=True):
        for groups, colour, label, aside in ((found.real, REAL, "real", -0.1), (found.sim, SIM, "simulated", 0.1)):
            _dots(axis, groups, name, (colour, label, aside))
        axis.set_xticks(range(len(found.real)), [g.name for g in found.real], rotation=20, fontsize=8)
        axis.set_title(f"{name}, {TUNED[name][0]}" + (" (M3)" if "rotor" in name else ""), fontsize=9)
        axis.grid(visible=True, alpha=0.3)
    figure.axes[0].legend()
    return _svg(figure, "flights")


def _dots(axis: mpl.axes.Axes, groups: Sequence[Group], name: str, look: tuple[str, str, float]) -> None:
    colour, label, aside = look
    points = [(n + aside, flight[name]) for n, group in enumerate(groups) for flight in group.per_flight]
    axis.scatter([x for x, _ in points], [y for _, y in points], s=14, color=colour, alpha=0.7, label=label)


def _svg(figure: Figure, salt: str) -> str:
    """The drawing as an SVG element; ids differ between figures, and the same figure gives the same bytes."""
    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
