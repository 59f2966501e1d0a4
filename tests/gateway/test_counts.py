"""Counts read as Prometheus text by the format's own rules; quantiles by hand; processes put together."""

import re

import pytest

from covey import exposition
from gateway.counts import COUNTERS, GAUGES, HISTOGRAMS, Counts, metric, quantile

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
_VALUE = re.compile(r"[+-]?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|Inf|NaN)")


def _read(text):
    """A second reading of the text format 0.0.4, strict: {family: (kind, {(name, labels): value})}."""
    assert text.endswith("\n")
    families, helped, current = {}, set(), ""
    for line in text[:-1].split("\n"):
        words = line.split(" ", 3)
        if words[:2] == ["#", "HELP"]:
            assert words[2] not in helped, f"HELP twice: {words[2]}"
            helped.add(words[2])
        elif words[:2] == ["#", "TYPE"]:
            current = words[2]
            assert current not in families, f"TYPE twice: {current}"
            assert words[3] in {"counter", "gauge", "histogram"}
            families[current] = (words[3], {})
        else:
            name = _NAME.match(line).group()
            rest, labels = line[len(name) :], ()
            if rest[0] == "{":
                end = rest.rindex("} ")
                inner, rest = rest[1:end], rest[end + 1 :]
                labels = tuple(_LABEL.findall(inner))
                assert _LABEL.sub("", inner) == "", line
                assert len({key for key, _ in labels}) == len(labels), line
            assert rest[0] == " "
            assert _VALUE.fullmatch(rest[1:]), line
            suffixes = ("_bucket", "_sum", "_count") if families[current][0] == "histogram" else ("",)
            assert name in {current + s for s in suffixes}, f"{name} stands below {current}"
            assert (name, labels) not in families[current][1], f"twice: {line}"
            families[current][1][name, labels] = float(rest[1:])
    assert helped == set(families)
    return families


def _check_histogram(name, samples):
    by_process = {}
    for (row, labels), value in samples.items():
        others = tuple(pair for pair in labels if pair[0] != "le")
        by_process.setdefault(others, {}).setdefault(row, []).append((dict(labels).get("le"), value))
    for rows in by_process.values():
        bounds = [float(le) for le, _ in rows[f"{name}_bucket"]]
        counts = [n for _, n in rows[f"{name}_bucket"]]
        assert bounds == sorted(bounds)
        assert counts == sorted(counts)
        assert bounds[-1] == float("inf")
        assert counts[-1] == rows[f"{name}_count"][0][1]
        assert len(rows[f"{name}_sum"]) == 1


def _filled():
    counts = Counts()
    counts.add("received", 2, "alarm")
    counts.add("received", 1, 'a"\\\n')
    counts.add("mapped", 7, "tele{x} y")
    counts.gauges["oldest_s"] = 0.00001
    for value, n in ((0.001, 1), (0.0011, 2), (59.0, 3), (61.0, 4)):
        counts.observe("ack_delay_s", value, n)
    return counts


def test_every_family_is_valid_prometheus_text() -> None:
    families = _read(_filled().prometheus())
    assert len(families) == len(COUNTERS) + len(GAUGES) + len(HISTOGRAMS)
    for name, (kind, samples) in families.items():
        assert name.endswith("_total") == (kind == "counter")
        if kind == "histogram":
            _check_histogram(name, samples)
    received = families["covey_gateway_received_total"][1]
    assert received["covey_gateway_received_total", (("kind", 'a\\"\\\\\\n'),)] == 1
    assert families["covey_gateway_oldest_seconds"][1]["covey_gateway_oldest_seconds", ()] == 0.00001


def test_bucket_bounds_are_inclusive_and_every_message_of_a_batch_counts() -> None:
    _kind, samples = _read(_filled().prometheus())["covey_gateway_ack_delay_seconds"]

    def bucket(le):
        return samples["covey_gateway_ack_delay_seconds_bucket", (("le", le),)]

    assert [bucket(le) for le in ("0.001", "0.002", "20", "60", "+Inf")] == [1, 3, 3, 6, 10]
    total = samples["covey_gateway_ack_delay_seconds_sum", ()]
    assert total == pytest.approx(0.001 + 0.0022 + 177 + 244)


def test_no_name_holds_a_unit_that_prometheus_does_not_know() -> None:
    for name in (*COUNTERS, *GAUGES, *HISTOGRAMS):
        assert not re.search(r"_(s|ms|kb|mb)$", metric(name)), name


def test_quantiles_are_linear_within_their_bucket() -> None:
    # 10 values in (1, 2], 10 in (2, 4]: the median is the upper end of the first, 75 % the middle of the second
    assert quantile((1, 2, 4), (0, 10, 10, 0), 0.5) == 2
    assert quantile((1, 2, 4), (0, 10, 10, 0), 0.75) == 3
    assert quantile((1, 2, 4), (4, 0, 0, 0), 0.25) == 0.25  # the first begins at zero
    assert quantile((1, 2, 4), (0, 0, 0, 5), 0.5) == 4  # above all bounds: no more is known
    assert quantile((1, 2, 4), (0, 0, 0, 0), 0.5) is None


def test_the_snapshot_is_plain_and_holds_the_same_numbers() -> None:
    seen = _filled().snapshot()
    assert seen["received"] == {"alarm": 2, 'a"\\\n': 1}
    delay = seen["ack_delay_s"]
    assert (delay["count"], delay["p99"], delay["buckets"]["0.002"]) == (10, 60, 2)
    assert seen["batch_messages"]["p50"] is None
    assert seen["start_time_s"] > 1_700_000_000


def test_texts_of_processes_join_without_repeating_a_family_or_a_sample() -> None:
    one, two = _filled(), Counts()
    two.add("received", 5, "alarm")
    families = _read(exposition.joined({"0": one.prometheus(), "1": two.prometheus()}, "process"))
    name = "covey_gateway_received_total"
    assert families[name][1][name, (("process", "0"), ("kind", "alarm"))] == 2
    assert families[name][1][name, (("process", "1"), ("kind", "alarm"))] == 5
    delay = "covey_gateway_ack_delay_seconds"
    _check_histogram(delay, families[delay][1])
    assert families[delay][1][f"{delay}_count", (("process", "0"),)] == 10
    alone = _read(two.prometheus())
    assert sum(len(f[1]) for f in families.values()) == sum(
        len(f[1]) for texts in (_read(one.prometheus()), alone) for f in texts.values()
    )
