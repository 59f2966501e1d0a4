"""Prometheus text format 0.0.4: written, and the texts of several processes put together. Pure.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (text-based format). Does not read foreign texts:
`joined` understands what `text` writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Sample(NamedTuple):
    """One line of values."""

    suffix: str  # after the family's name
    labels: tuple[tuple[str, str], ...]
    value: float


class Family(NamedTuple):
    """One metric with all its samples."""

    name: str
    kind: str  # counter, gauge, histogram
    about: str
    samples: Sequence[Sample]


def histogram_samples(bounds: Sequence[float], counts: Sequence[int], total: float) -> list[Sample]:
    """Cumulative buckets with `+Inf`, sum and count.

    Args:
        bounds: (B,) inclusive upper bounds, ascending.
        counts: (B + 1,) not cumulative.
        total: sum of the values.
    """
    samples: list[Sample] = []
    below = 0
    for bound, n in zip([*(f"{b:g}" for b in bounds), "+Inf"], counts, strict=True):
        below += n
        samples.append(Sample("_bucket", (("le", bound),), below))
    return [*samples, Sample("_sum", (), total), Sample("_count", (), below)]


def text(families: Sequence[Family]) -> str:
    """All families, each with HELP and TYPE once."""
    lines: list[str] = []
    for name, kind, about, samples in families:
        shown = f"{name}_total" if kind == "counter" else name
        lines += [f"# HELP {shown} {_escape_help(about)}", f"# TYPE {shown} {kind}"]
        for suffix, labels, value in samples:
            inner = ",".join(f'{key}="{_escape(said)}"' for key, said in labels)
            lines.append(f"{name}{suffix}{{{inner}}} {_number(value)}" if inner else f"{name}{suffix} {_number(value)}")
    return "\n".join(lines) + "\n"


def joined(texts: Mapping[str, str], label: str) -> str:
    """Texts of several processes as one: each sample gets `label` with its process, each family stays in one piece.

    Args:
        texts: process -> what its `text` wrote.
        label: not used in any of them.
    """
    heads: dict[str, list[str]] = {}
    rows: dict[str, list[str]] = {}
    for process, body in texts.items():
        mark = f'{label}="{_escape(process)}"'
        family = ""
        for line in body.splitlines():
            if line.startswith("#"):
                family = line.split(" ", 3)[2]
                head = heads.setdefault(family, [])
                if line not in head:
                    head.append(line)
                continue
            at = min(at for at in (line.find("{"), line.find(" ")) if at > 0)  # the name has neither
            name, rest = line[:at], line[at:]
            marked = f"{{{mark},{rest[1:]}" if rest[0] == "{" else f"{{{mark}}}{rest}"
            rows.setdefault(family, []).append(name + marked)
    lines = [line for family, head in heads.items() for line in (*head, *rows.get(family, []))]
    return "".join(f"{line}\n" for line in lines)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value)).removesuffix(".0")


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escape_help(about: str) -> str:
    return about.replace("\\", "\\\\").replace("\n", "\\n")
