"""The stage `enrich`: an alarm, and what the fleet looked like when it began, to covey.alarms.enriched.

Beginnings get the whole context; ends go on with what their device is. The event keeps its identity and its trace.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from cloud.stream import context as fleet
from cloud.stream.fleet_view import Answer, FleetView
from cloud.stream.model import Model, ModelFailed
from cloud.stream.sinks import Out
from cloud.stream.spans import Spans
from cloud.stream.stage import Made, dead_letter
from cloud.stream.watched import Watched
from covey import topics, wire
from covey.errors import StoreError, WireError
from covey.wire_alarms import Context, Enriched, make_enriched

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.engine import Engine

    from cloud.config import CloudConfig
    from cloud.stream.kafka import Place, Record
    from covey.tracing import Tracing

_log = logging.getLogger("cloud.enrich")

ROOM_BYTES = 16_384  # what route adds, and labels
NOBODY = fleet.Moment(set(), {})
FEW = 8  # channels of an alarm too large to go on whole
RECENT = 10_000  # alarms that this instance remembers by itself, while the store may not have them yet


class _Alarm(NamedTuple):
    identity: wire.Identity
    alarm: wire.Alarm
    time: str
    traceparent: str
    received_s: float
    record: Record


class EnrichStage:
    """Alarms in, enriched alarms out."""

    name = "enrich"
    topics = (topics.ALARMS,)
    gather_s = 0.0
    sends = True

    def __init__(
        self,
        config: CloudConfig,
        engine: Engine,
        model_failed: Callable[[int], None],
        tracing: Tracing | None = None,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; a model that cannot be loaded is told once and left out until its file is another.

        Args:
            config: of the process.
            engine: an open store.
            model_failed: told how many alarms went on without the model's opinion.
            tracing: where spans are told, if anywhere.
            refused: told of each file of a model that is refused.
        """
        self._spans = Spans(tracing, self.name)
        self._window_s = config.alarm_window_s
        self._view = FleetView(engine, self._window_s)
        self._model_failed = model_failed
        self._model: Watched[Model | None] | None = None
        self._recent: deque[tuple[str, fleet.Beginning]] = deque(maxlen=RECENT)  # with the group
        if "model" in config.enrich:
            wanted = config.enrich["model"]
            self._model = Watched(wanted.path, lambda _path: Model(wanted), refused, first=lambda: None)

    def begin(self, _broker: str, _places: Sequence[Place]) -> Mapping[Place, int]:
        """Where the group has committed."""
        return {}

    def tick(self, *, leads: bool) -> None:
        """Nothing is due."""

    def process(self, _broker: str, records: Sequence[Record]) -> Made:
        """Give each alarm its context; what is no alarm becomes a dead letter."""
        alarms: list[_Alarm] = []
        out: list[Out] = []
        for record in records:
            try:
                alarms.append(_decode(record))
            except WireError as error:
                out.append(dead_letter(error.reason, f"enrich: {error.detail}", record))
        refused = len(out)
        contexts = self._judged(alarms, self._contexts(alarms))
        for one, context in zip(alarms, contexts, strict=True):
            trace = self._spans.passed(one.record, one.traceparent, {"covey.alarm_id": one.alarm.alarm_id})
            event = _event(one._replace(traceparent=trace), context)
            out.append(Out(topics.ALARMS_ENRICHED, one.identity.device, event, trace))
        stale = sum(context.stale for context in contexts)
        counts = {"enriched": len(alarms) - stale, "stale": stale, "refused": refused}
        return Made(out, {word: n for word, n in counts.items() if n})

    def _contexts(self, alarms: Sequence[_Alarm]) -> list[Context]:
        answer: Answer | None = None
        if alarms:
            newest: dict[str, float] = {}
            for one in alarms:
                newest[one.identity.device] = max(one.received_s, newest.get(one.identity.device, 0.0))
            try:
                answer = self._view.ask(newest)
            except StoreError as error:
                _log.warning("%s; alarms go on without context", error)
        if answer is None:
            return [fleet.stale(one.alarm) for one in alarms]
        groups = self._with_ours(answer, alarms)
        moments: dict[tuple[str, int], fleet.Moment] = {}
        found = []
        for one in alarms:
            view = answer.devices.get(one.identity.device)
            group, together = None, NOBODY
            if view is not None and one.alarm.state == "begin":
                group, key = groups[view.group], (view.group, int(one.received_s))
                if key not in moments:
                    moments[key] = fleet.moment(group.alarms, key[1], self._window_s)
                together = moments[key]
            found.append(
                fleet.build(
                    one.identity.device,
                    one.alarm,
                    one.received_s,
                    view,
                    group,
                    together,
                    answer.published,
                    self._window_s,
                )
            )
        return found

    def _with_ours(self, answer: Answer, alarms: Sequence[_Alarm]) -> dict[str, fleet.GroupView]:
        """The groups, with alarms that we have seen and the store may not have yet."""
        for one in alarms:
            view, alarm = answer.devices.get(one.identity.device), one.alarm
            if alarm.state == "begin" and view is not None:
                seen = fleet.Beginning(
                    one.identity.device, alarm.alarm_id, alarm.top_channel, one.received_s, open=False
                )
                self._recent.append((view.group, seen))
        oldest = min((one.received_s for one in alarms), default=0.0) - self._window_s
        while self._recent and self._recent[0][1].received_s < oldest:
            self._recent.popleft()
        ours: dict[str, list[fleet.Beginning]] = {}
        for group, seen in self._recent:
            ours.setdefault(group, []).append(seen)
        return {name: view._replace(alarms=(*view.alarms, *ours.get(name, ()))) for name, view in answer.groups.items()}

    def _judged(self, alarms: Sequence[_Alarm], contexts: list[Context]) -> list[Context]:
        begun = [n for n, one in enumerate(alarms) if one.alarm.state == "begin"]
        if self._model is None:
            return contexts
        model = self._model.now()
        if model is None:
            self._model_failed(len(begun))
            return contexts
        try:
            said = model.judge([(alarms[n].alarm, contexts[n]) for n in begun])
        except ModelFailed as error:
            _log.warning("%s; %d alarms go on without its opinion", error, len(begun))
            said = [None] * len(begun)
        missing = sum(opinion is None for opinion in said)
        if missing:
            self._model_failed(missing)
        for n, opinion in zip(begun, said, strict=True):
            contexts[n] = fleet.with_model(contexts[n], opinion)
        return contexts


def _event(one: _Alarm, context: Context) -> bytes:
    """The event, also of an alarm that is as large as an event may be: then with its first channels only."""
    enriched = Enriched(one.alarm, one.time, one.received_s, context, time.time())
    body = make_enriched(one.identity, enriched, one.traceparent)
    if len(body) > wire.MAX_EVENT_BYTES - ROOM_BYTES:
        alarm = replace(one.alarm, attribution=one.alarm.attribution[:FEW])
        body = make_enriched(one.identity, replace(enriched, alarm=alarm), one.traceparent)
    return body


def _decode(record: Record) -> _Alarm:
    event, identity = wire.decode_event(record.value)
    data = wire.decode_data(event)
    if not isinstance(data, wire.Alarm):
        raise WireError("unknown_type", f"{wire.ALARM_TYPE} expected, {event.type!r} received")
    if record.key != identity.device:
        raise WireError("source_mismatch", f"key {identity.device} expected, {record.key[:80]!r} received")
    return _Alarm(identity, data, event.time, event.traceparent, record.received_s or time.time(), record)
