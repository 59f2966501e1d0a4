"""Any device: MQTT topics that are not covey's own, mapped to Kafka topics and keys. Pure.

A mapping says which messages (an MQTT filter), where to (a Kafka topic), in what order (a key template), and how (the
bytes as they came, or in a CloudEvents envelope). Refuses what could lose the order or double a message: shared
subscriptions, filters that cross each other, anything that can match covey's own topics. Reads no payload, except to
see whether it is JSON when an envelope is wanted. `gateway/filters.py` has the rules of filters alone.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct

from covey import topics, wire
from covey.telemetry import is_traceparent
from gateway import filters as rules

EVENT_TYPE = "covey.mqtt.v1"
MAX_KEY_BYTES = 4_096
MAX_VALUE_BYTES = 950_000  # the Kafka library's default of 1,000,000 a record, less room for key, headers and framing
RESERVED = (f"{topics.ROOT}/+/+/+", f"{topics.ROOT}/+/{topics.GATEWAY}")  # shapes of covey's own MQTT topics

# Kafka, org.apache.kafka.common.internals.Topic: legal characters and length
_KAFKA_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_TOKEN = re.compile(r"\{\{|\}\}|\{(?P<level>[0-9]{1,5})(?P<rest>:?)\}|\{topic\}|[^{}]+|[{}]")


class Mapping(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[mappings]]` table; `problems` judges it."""

    filter: str  # MQTT 5, 4.7; no two mappings' filters may cross
    topic: str  # Kafka topic, never one of covey's own
    key: str  # {0} {1} ... levels of the MQTT topic, {2:} the rest from a level on, {topic} all of it; {{ and }} braces
    payload: Literal["raw", "envelope"] = "raw"
    headers: bool = False  # MQTT 5 user properties become Kafka headers; a slower road
    max_bytes: int = MAX_VALUE_BYTES  # of the record's value: an envelope is larger than its payload


class Route(NamedTuple):
    """Where a message goes."""

    mapping: Mapping
    key: bytes  # never empty: Kafka's clients spread records with an empty key over all partitions


class _Part(NamedTuple):
    """A piece of a key template: text, one level, the levels from one on, or (level 0, rest) the whole topic."""

    text: str
    level: int  # -1: text
    rest: bool


class _Node:
    """A level of the tree of filters."""

    __slots__ = ("below", "end", "rest")

    def __init__(self) -> None:
        self.below: dict[str, _Node] = {}
        self.end = -1  # index of the first mapping whose filter ends here
        self.rest = -1  # ... or ends here with `/#`


class Mappings:
    """All mappings of a gateway, ready to be asked.

    Attributes:
        filters: to subscribe: a filter that another one covers is not subscribed, since a broker sends a message once
            for each subscription that matches (mosquitto and iotcore do; MQTT 5, 3.3.4 leaves it open).
        topics: Kafka topics, no repeats.
        wants_properties: some mapping carries user properties on.
    """

    def __init__(self, mappings: tuple[Mapping, ...]) -> None:
        self.filters = tuple(_broadest(mappings))
        self.topics = tuple(dict.fromkeys(m.topic for m in mappings))
        self.wants_properties = any(m.headers for m in mappings)
        self._mappings = mappings
        self._templates = [_parse_template(m.key) for m in mappings]
        self._root = _Node()
        for index, mapping in enumerate(mappings):
            self._plant(rules.levels(mapping.filter), index)

    def find(self, topic: str) -> Route | None:
        """The first mapping whose filter matches, with the key that its template makes of the topic.

        None: no filter matches, or the topic has not got a level that the key asks for, or the key would be empty or
        longer than MAX_KEY_BYTES; `why_not` tells. The tree makes its cost independent of the number of mappings.
        """
        index, key = self._find(topic)
        return Route(self._mappings[index], key) if index >= 0 and _fits(key) else None

    def why_not(self, topic: str) -> str:
        """For the dead letter (`bad_topic`) of a topic that `find` has no route for: one line."""
        index, key = self._find(topic)
        if index < 0:
            return f"no mapping for {topic[:120]!r}"
        wanted = f"mappings[{index}].key {self._mappings[index].key[:120]!r}"
        if len(key) > MAX_KEY_BYTES:
            return f"{wanted}: at most {MAX_KEY_BYTES} bytes expected, {len(key)} of {topic[:120]!r}"
        return f"{wanted}: nothing of it in {topic[:120]!r}"

    def _find(self, topic: str) -> tuple[int, bytes]:
        """(index of the mapping or -1, key: empty where a level is missing)."""
        parts = topic.split("/")
        index = self._first(parts)
        if index < 0:
            return -1, b""
        words: list[str] = []
        for text, level, rest in self._templates[index]:
            if level < 0:
                words.append(text)
            elif level >= len(parts):
                return index, b""
            else:
                words.append("/".join(parts[level:]) if rest else parts[level])
        return index, "".join(words).encode()

    def _first(self, parts: list[str]) -> int:
        found: list[int] = []
        nodes = [self._root]
        wild = not parts[0].startswith("$")  # MQTT 5, 4.7.2: a leading wildcard does not match `$SYS`
        for part in parts:
            after: list[_Node] = []
            for node in nodes:
                if wild and node.rest >= 0:
                    found.append(node.rest)
                below = node.below.get(part)
                if below is not None:
                    after.append(below)
                if wild and (below := node.below.get("+")) is not None:
                    after.append(below)
            wild = True
            nodes = after
        for node in nodes:
            found += [i for i in (node.end, node.rest) if i >= 0]  # `a/#` matches `a` too (4.7.1.2)
        return min(found, default=-1)

    def _plant(self, names: tuple[str, ...], index: int) -> None:
        node = self._root
        for name in names:
            if name == "#":
                node.rest = index if node.rest < 0 else node.rest
                return
            node = node.below.setdefault(name, _Node())
        node.end = index if node.end < 0 else node.end


def groups(mappings: tuple[Mapping, ...]) -> tuple[tuple[Mapping, ...], ...]:
    """Mappings that share a subscription, in their order; each group must stay in one process.

    Where one filter covers another (`z/bridge/#` before `z/#`) only the broad one is subscribed; two processes with one
    each would both receive what both match, and store it twice.
    """
    roots = _broadest(mappings)
    return tuple(tuple(m for m in mappings if rules.covers(root, m.filter)) for root in roots)


def problems(mappings: tuple[Mapping, ...]) -> list[str]:
    """All mistakes of all mappings, one line each, beginning with index and key."""
    told: list[str] = []
    good: list[int] = []  # filters that can be compared
    for index, mapping in enumerate(mappings):
        where = f"mappings[{index}]"
        bad_filter = _filter_problem(mapping.filter)
        mine = {
            "filter": bad_filter,
            "topic": _topic_problem(mapping.topic),
            "key": _key_problem(mapping.key, "" if bad_filter else mapping.filter),
            "max_bytes": _max_bytes_problem(mapping.max_bytes),
        }
        told += [f"{where}.{key}: {problem}" for key, problem in mine.items() if problem]
        if not bad_filter:
            good.append(index)
    return told + _crossings(mappings, good) + _collisions(mappings)


def envelope(
    mapping: Mapping,
    topic: str,
    payload: bytes,
    received_s: float,
    gateway: str,
    number: int,
    traceparent: str = "",
) -> bytes:
    """A CloudEvents 1.0 event in JSON, structured mode, about one MQTT message (docs/protocol.md, "Plain MQTT").

    Args:
        mapping: which asked for it; without its `headers` the trace context is left out, as the properties are.
        topic: MQTT topic; becomes `subject`.
        payload: JSON goes into `data`, byte for byte; anything else into `data_base64`.
        received_s: the gateway's clock, seconds since the epoch.
        gateway: its name.
        number: unique under that name, over restarts too.
        traceparent: W3C trace context; left out when empty or not valid.
    """
    event: dict[str, object] = {
        "specversion": "1.0",
        "id": f"{gateway}/{number}",
        "source": f"/covey/{topics.GATEWAY}/{gateway}",
        "type": EVENT_TYPE,
        "time": wire.rfc3339(received_s),
        "subject": topic,
    }
    if mapping.headers and is_traceparent(traceparent):
        event["traceparent"] = traceparent
    if _is_json(payload):
        event |= {"datacontenttype": "application/json", "data": msgspec.Raw(payload)}
    else:  # without datacontenttype JSON would be understood (CloudEvents JSON format 1.0, 3.1)
        event |= {"datacontenttype": "application/octet-stream", "data_base64": payload}
    return msgspec.json.encode(event)


def headers(user: tuple[tuple[str, str], ...]) -> list[tuple[str, bytes]]:
    """Kafka headers of MQTT 5 user properties: same names, same order, repeats kept (MQTT 5, 3.3.2.3.7)."""
    return [(name, value.encode()) for name, value in user]


def traceparent_of(user: tuple[tuple[str, str], ...]) -> str:
    """The message's W3C trace context, "" without a valid one; two of them are none (Trace Context, 3.2)."""
    found = [value for name, value in user if name == "traceparent"]
    return found[0] if len(found) == 1 and is_traceparent(found[0]) else ""


def _is_json(payload: bytes) -> bool:
    try:
        msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _fits(key: bytes) -> bool:
    return 0 < len(key) <= MAX_KEY_BYTES


def _parse_template(template: str) -> tuple[_Part, ...]:
    """The pieces of a valid key template."""
    parts: list[_Part] = []
    for token in _TOKEN.finditer(template):
        text = token.group()
        if text == "{topic}":
            parts.append(_Part("", 0, rest=True))
        elif token["level"] is not None:
            parts.append(_Part("", int(token["level"]), rest=bool(token["rest"])))
        else:
            parts.append(_Part({"{{": "{", "}}": "}"}.get(text, text), -1, rest=False))
    return tuple(parts)


def _filter_problem(name: str) -> str:
    problem = rules.problem(name)
    if problem:
        return problem
    if name.startswith(f"{topics.ROOT}/") or any(rules.cross(name, own) for own in RESERVED):
        return f"a filter that cannot match {topics.ROOT}/... expected, {name[:120]!r} given: those are covey's own"
    return ""


def _topic_problem(name: str) -> str:
    if not _KAFKA_TOPIC.fullmatch(name) or name in (".", ".."):
        return f"a Kafka topic expected (1-249 letters, digits, '.', '_', '-'), {name[:120]!r} given"
    if _collision_name(name).startswith("covey_"):  # Kafka takes covey_acks for covey.acks
        return f"a Kafka topic that is not covey's own expected, {name!r} given"
    if name.startswith("__"):
        return f"a Kafka topic that is not Kafka's own expected, {name!r} given"
    return ""


def _key_problem(template: str, name: str) -> str:
    """`name` is the filter, or "" where it is itself wrong."""
    if not template or len(template) > 1_024:
        return f"a template of 1-1024 characters expected, {len(template)} given"
    if any(token.group() in ("{", "}") for token in _TOKEN.finditer(template)):
        return f"{{0}}, {{1}}, ..., {{2:}}, {{topic}} or text expected ({{{{ and }}}} are braces), {template[:120]!r} given"
    parts = _parse_template(template)
    most = rules.most_levels(name) if name else None
    asked = max((part.level for part in parts), default=-1)
    if most is not None and asked >= most:
        return f"levels {{0}} to {{{most - 1}}} expected, as many as {name[:120]!r} has, {{{asked}}} given"
    return ""


def _max_bytes_problem(size: int) -> str:
    return "" if 1 <= size <= MAX_VALUE_BYTES else f"1 to {MAX_VALUE_BYTES} expected, {size} given"


def _crossings(mappings: tuple[Mapping, ...], good: list[int]) -> list[str]:
    """Filters that repeat, that never get their turn, or of which a broker would send some messages twice."""
    told: list[str] = []
    names = [m.filter for m in mappings]
    broad = set(_broadest(tuple(mappings[i] for i in good)))
    for place, j in enumerate(good):
        for i in good[:place]:
            where = f"mappings[{j}].filter"
            if rules.levels(names[i]) == rules.levels(names[j]):
                told.append(f"{where}: another filter expected, {names[j][:120]!r} is that of mappings[{i}]")
            elif rules.covers(names[i], names[j]):
                told.append(
                    f"{where}: the narrower filter first expected, {names[j][:120]!r} comes after"
                    f" {names[i][:120]!r} of mappings[{i}], which takes all its messages"
                )
            elif names[i] in broad and names[j] in broad and rules.cross(names[i], names[j]):
                told.append(
                    f"{where}: {names[j][:120]!r} and {names[i][:120]!r} of mappings[{i}] match some topics both,"
                    " which a broker sends twice: one that covers the other, or none in common expected"
                )
    return told


def _collisions(mappings: tuple[Mapping, ...]) -> list[str]:
    """Kafka refuses to create a topic that differs from another in `.` against `_` alone."""
    seen: dict[str, tuple[int, str]] = {}
    told: list[str] = []
    for index, mapping in enumerate(mappings):
        first, name = seen.setdefault(_collision_name(mapping.topic), (index, mapping.topic))
        if name != mapping.topic:
            told.append(
                f"mappings[{index}].topic: {mapping.topic[:120]!r} collides with {name[:120]!r} of mappings[{first}]:"
                " to Kafka '.' and '_' are the same"
            )
    return told


def _collision_name(name: str) -> str:
    return name.replace(".", "_")


def _broadest(mappings: tuple[Mapping, ...]) -> list[str]:
    """Filters that no other one covers, in order, without repeats."""
    names = list({rules.levels(m.filter): m.filter for m in reversed(mappings)}.values())[::-1]
    return [name for name in names if not any(other != name and rules.covers(other, name) for other in names)]
