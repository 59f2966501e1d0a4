"""Why an alarm: its cause in words, and each step from the sensor's window to the person, as docs/api.md has them.

`checked` stands only where the cloud itself compared something: the stored bytes with the hash taken when they came, the model's digest with
a release that the cloud signed. What a device said, and what another stage said, is `told`. The window's samples never leave the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from cloud.console import alarm_view

if TYPE_CHECKING:
    import sqlalchemy as sa

    from cloud.console.alarm_view import DeliveryLine, VerdictLine
    from cloud.store.why import Chain
    from covey.wire_alarms import Context

State = Literal["checked", "told", "waiting", "failed"]


class Step(Struct):
    """One step of the chain; `delay_s`: since the step before."""

    what: Literal["window", "model", "score", "alarm", "gateway", "context", "route", "you"]
    title: str
    text: str
    detail: str = ""
    digest: str = ""
    at_s: float | None = None
    delay_s: float | None = None
    state: State = "told"


LATE_S = 60.0  # between a device's clock and Kafka's, which is worth a word


class Why(Struct):
    """The explanation of one alarm."""

    cause: str
    peers: str
    checks: str
    command: str
    event: str
    steps: list[Step]


def why(row: sa.RowMapping, chain: Chain | None, said: list[VerdictLine], sent: list[DeliveryLine]) -> Why:
    """Put the explanation together.

    Args:
        row: the alarm's, of alarm_view.
        chain: of cloud/store/why.py for the event that began it; None: retention has taken the event.
        said: verdicts, the first first.
        sent: deliveries.
    """
    steps = [_window(row, chain), _model(row, chain), _score(row), _alarm(row, chain), _gateway(row, chain)]
    context = alarm_view.context_of(row)
    steps += [_context(row, context), _route(row, sent), _you(row, said)]
    before: float | None = None
    for step in steps:
        if step.at_s is not None:
            if before is not None:
                # Two clocks meet between device and gateway: a device that is ahead would have been heard before it spoke.
                step.delay_s = round(max(0.0, step.at_s - before), 3)
                if step.what == "gateway":
                    step.detail = "; ".join(filter(None, (step.detail, _clocks(step.at_s - before))))
            before = step.at_s
    return Why(
        cause=_cause(row),
        peers=_peers(context),
        checks=_checks(steps),
        command=f"covey cloud why {alarm_view.identity(row)}",
        event=str(alarm_view.identity(row)),
        steps=steps,
    )


def _clocks(apart_s: float) -> str:
    """What the time between device and gateway is worth."""
    if apart_s < 0:
        return f"the device's clock is at least {-apart_s:.3g} s ahead"
    late = "" if apart_s < LATE_S else ": kept on the device until then, or its clock is behind"
    return f"later by two clocks, the device's and Kafka's{late}"


def _cause(row: sa.RowMapping) -> str:
    if row["kind"] == "sensor":
        return f"a sensor of {row['device']} failed: {row['detail'] or row['top_channel']}"
    if not row["threshold"]:
        return f"{row['top_channel'] or 'its score'} drove {row['device']} to a score of {row['peak_score']:.3g}"
    times = row["peak_score"] / row["threshold"]
    return f"{row['top_channel'] or 'its score'} drove {row['device']} to {times:.2f} times its threshold"


def _peers(context: Context | None) -> str:
    if context is None:
        return "not looked at yet: the enrich stage has not answered"
    if context.stale:
        return "not known: the store could not be asked when the alarm came"
    if not context.peers:
        return f"no peer in {context.group} was heard of late"
    same = context.peers_same_channel
    return f"{same} of {context.peers} peers in {context.group} {'shows' if same == 1 else 'show'} the same"


def _checks(steps: list[Step]) -> str:
    checked = [step.what for step in steps if step.state == "checked"]
    failed = [step.what for step in steps if step.state == "failed"]
    words = {"alarm": "the stored bytes are those that came", "model": "the model is one that this cloud signed"}
    told = [words[what] for what in checked if what in words] or ["nothing could be compared"]
    wrong = {
        "alarm": "the stored bytes are NOT those that came",
        "model": "the model is NOT one that this cloud signed",
    }
    return "; ".join([wrong.get(what, f"{what} failed") for what in failed] + told)


def _window(row: sa.RowMapping, chain: Chain | None) -> Step:
    window = (chain or {}).get("window") or {}
    start, end = window.get("start_s", row["begin_s"]), window.get("end_s")
    text = f"{end - start:.2f} s of samples" if start is not None and end is not None else "a window of samples"
    text += f", flight {row['flight']}" if row["flight"] else ""
    detail = "the samples stay on the device; their hash is here"
    return Step("window", "window", text, detail, row["window_sha256"], end if end is not None else start)


def _model(row: sa.RowMapping, chain: Chain | None) -> Step:
    if row["kind"] == "sensor":
        return Step("model", "model", "none: a sensor's failure needs no model")
    text = (
        f"release {row['release']} on {row['runtime'] or 'an unnamed runtime'}" if row["release"] else "no release told"
    )
    release = (chain or {}).get("release")
    if release is not None:
        detail = f"signed here for {release['group']} as number {release['number']} on {release['published']}"
        return Step("model", "model", text, detail, row["digest"], state="checked")
    if chain is None or not row["digest"]:
        return Step("model", "model", text, "not compared: the event is gone, or names no digest", row["digest"])
    return Step(
        "model", "model", text, "no release with this number and digest was signed here", row["digest"], state="failed"
    )


def _score(row: sa.RowMapping) -> Step:
    text = f"{row['score']:.4g} against a threshold of {row['threshold']:.4g}; peak {row['peak_score']:.4g}"
    detail = f"higher than {100 * row['confidence']:.4g} % of the reference scores" if row["kind"] != "sensor" else ""
    return Step("score", "score", text, detail, row["calibration"])


def _alarm(row: sa.RowMapping, chain: Chain | None) -> Step:
    stored = (chain or {}).get("stored")
    text = f"{row['windows']} anomalous windows" + ("" if row["state"] == "begin" else ", ended")
    if stored is None:
        return Step("alarm", "alarm", text, "the event itself is no longer stored", at_s=row["begin_s"])
    written_s = _seconds(stored["written"])
    if stored["intact"]:
        return Step(
            "alarm",
            "alarm",
            text,
            "the stored bytes have the hash they came with",
            stored["sha256"],
            written_s,
            state="checked",
        )
    return Step(
        "alarm",
        "alarm",
        text,
        "the stored bytes have another hash than they came with",
        stored["sha256"],
        written_s,
        state="failed",
    )


def _gateway(row: sa.RowMapping, chain: Chain | None) -> Step:
    if not row["received_s"]:
        return Step("gateway", "gateway", "handed to Kafka", "when is not stored")
    trace = (chain or {}).get("stored", {}).get("traceparent") or row["trace_id"]
    return Step("gateway", "gateway", "handed to Kafka", f"trace {trace}" if trace else "", at_s=row["received_s"])


def _context(row: sa.RowMapping, context: Context | None) -> Step:
    if context is None:
        return Step("context", "context", "not enriched yet", state="waiting")
    if context.stale:
        return Step("context", "context", "the store could not be asked", at_s=row["enriched_s"], state="failed")
    text = f"{context.peers_alarming} of {context.peers} peers alarm, {context.lift:.1f} times the usual"
    detail = f"{context.alarms_24h} alarm{'' if context.alarms_24h == 1 else 's'} of this device in 24 h, {context.confirmed_30d} confirmed and {context.rejected_30d} rejected in 30 d"
    if context.model is not None:
        detail += f"; {context.model.name} says {context.model.value:.3g}"
    digest = context.model.digest if context.model is not None else ""
    return Step("context", "context", text, detail, digest, row["enriched_s"])


def _route(row: sa.RowMapping, sent: list[DeliveryLine]) -> Step:
    if row["level"] is None:
        return Step("route", "route", "not routed yet", state="waiting")
    text = f"{row['level']}, by " + (f"rule {row['rule']}" if row["rule"] else "no rule")
    detail = "; ".join(f"{one.target}: {one.state}" + (f" ({one.error})" if one.error else "") for one in sent)
    failed = any(one.state == "failed" for one in sent)
    return Step("route", "route", text, detail, at_s=row["routed_s"], state="failed" if failed else "told")


def _you(row: sa.RowMapping, said: list[VerdictLine]) -> Step:
    last = said[-1] if said else None
    if row["verdict"]:
        note = last.note if last is not None else ""
        return Step("you", "verdict", f"{row['verdict']} by {row['verdict_by']}", note, at_s=row["verdict_s"])
    if row["acknowledged_s"] is not None:
        text = f"acknowledged by {row['acknowledged_by']}, not judged yet"
        return Step("you", "verdict", text, at_s=row["acknowledged_s"], state="waiting")
    return Step("you", "verdict", "nobody has judged it yet", state="waiting")


def _seconds(rfc3339: str) -> float | None:
    from datetime import datetime

    try:
        return datetime.fromisoformat(rfc3339).timestamp()
    except ValueError:
        return None
