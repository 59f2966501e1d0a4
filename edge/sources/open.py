"""From what the configuration says to a source: recordings by their paths, live sources by URL.

    flight.log  other.tlog                        recordings, one after the other
    mavlink+udp://0.0.0.0:14550                   a flight controller that sends here
    mavlink+udp-out://192.168.1.10:14540          one that waits to be spoken to
    mavlink+serial:///dev/ttyACM0?baud=921600     one on a cable
    mqtt://127.0.0.1:1883/drone/#                 a local broker
    stdin:                                        JSON lines
    tail:///var/log/imu.csv                       a CSV that grows
    system:                                       this machine

One live source, and nothing beside it. Nothing is connected here: what cannot be reached is the source's `problem`; what is wrong
in the URL itself is refused.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from covey.errors import ConfigError
from edge.sources.live import Live
from edge.sources.player import Player

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edge.sources import Source
    from edge.sources.links import ByteLink
    from edge.sources.live import Reader
    from edge.sources.names import ChannelFrom

_BAUD = 57_600  # of telemetry ports; a USB port takes any
_SYSTEM_S = 1.0


def is_live(spec: str) -> bool:
    """Whether this names a live source and no file."""
    return spec.partition(":")[0] in _OPENERS and ":" in spec


def open_source(
    spec: Sequence[str],
    *,
    rate_hz: float,
    speed: float = 1.0,
    gap_s: float = 1.0,
    clock_start_s: float = 0.0,
    repeat: bool = False,
    hold_s: float = 0.5,
    channel_map: Mapping[str, ChannelFrom] | None = None,
) -> Source:
    """The source of these names.

    Args:
        spec: paths of recordings, or one URL of a live source.
        rate_hz: of the model's inputs.
        speed: of recordings; see `Player`, as of the next three.
        gap_s: between two recordings.
        clock_start_s: device clock of the first sample.
        repeat: begin again after the last recording.
        hold_s: silence of a live channel that counts as missing, at least three of its own intervals.
        channel_map: model channel -> where it comes from in the source.

    Raises:
        ConfigError: a URL that cannot be right, or more than one live source.
        DataError: a recording is not there.
        MissingExtra: a library of the source is not installed.
    """
    live = [one for one in spec if is_live(one)]
    if not live:
        odd = [one for one in spec if "://" in one]
        if odd:
            raise ConfigError(f"sources: a path or one of {', '.join(sorted(_OPENERS))} expected, {odd[0]} came")
        return Player(spec, speed, gap_s, clock_start_s, repeat=repeat, rate_hz=rate_hz, channel_map=channel_map)
    if len(spec) > 1:
        raise ConfigError(f"sources: one live source and nothing beside it expected, {', '.join(spec)} came")
    reader = open_reader(live[0], rate_hz, hold_s)
    return Live(reader, rate_hz=rate_hz, hold_s=hold_s, channel_map=channel_map)


def open_reader(spec: str, rate_hz: float, hold_s: float) -> Reader:
    """The reader of one live source's URL.

    Raises:
        ConfigError: the URL cannot be right.
        MissingExtra: a library of the source is not installed.
    """
    url = _Url(spec)
    reader = _OPENERS[url.parts.scheme](url, rate_hz, hold_s)
    url.check()
    return reader


class _Url:
    """One spec; each option is asked for, and what nobody asked for is refused."""

    def __init__(self, spec: str) -> None:
        self.spec = spec
        # "#" is a wildcard of MQTT's topics, no fragment
        self.parts: SplitResult = urlsplit(spec.replace("#", "%23"))
        self._options = dict(parse_qsl(self.parts.query, keep_blank_values=True))

    def wrong(self, expected: str, came: object) -> ConfigError:
        """What was expected, and what came."""
        return ConfigError(f"source {self.spec}: {expected} expected, {came} came")

    def text(self, name: str, default: str = "") -> str:
        """An option."""
        return self._options.pop(name, default)

    def number(self, name: str, default: int, most: int) -> int:
        """An option from 0 to `most`."""
        value = self.text(name, str(default))
        if not (value.isascii() and value.isdigit() and int(value) <= most):
            raise self.wrong(f"{name} from 0 to {most}", value or "nothing")
        return int(value)

    def seconds(self, name: str, default: float) -> float:
        """An option, a time."""
        value = self.text(name, str(default))
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 < number <= 3600:  # an hour; NaN fails too
            raise self.wrong(f"{name} as seconds up to 3600", value or "nothing")
        return number

    def address(self, *, default_port: int | None = None) -> tuple[str, int]:
        """Host and port."""
        try:
            host, port = self.parts.hostname, self.parts.port
        except ValueError:
            host, port = None, None
        port = default_port if port is None else port
        if not host or port is None:
            raise self.wrong("host:port", self.parts.netloc or "nothing")
        return host, port

    def path(self) -> str:
        """The file."""
        path = unquote(self.parts.path)
        if self.parts.netloc or not path.strip("/"):
            raise self.wrong(f"{self.parts.scheme}:///path", self.parts.netloc or "no path")
        return path

    def check(self) -> None:
        """Nothing is left."""
        if self._options:
            raise self.wrong("no other option", ", ".join(sorted(self._options)))


def _udp(url: _Url, rate_hz: float, _hold_s: float) -> Reader:
    from edge.sources.links import Udp

    host, port = url.address()
    host = "127.0.0.1" if host == "localhost" else host
    try:  # a name would have to be looked up, and a look-up waits
        socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
    except OSError as error:
        raise url.wrong("an IP address", host) from error
    out = url.parts.scheme.endswith("-out")
    return _mavlink(url, lambda: Udp(host, port, out=out), rate_hz, speak=out)


def _serial(url: _Url, rate_hz: float, _hold_s: float) -> Reader:
    from edge.sources.links import Serial

    path, baud = url.path(), url.number("baud", _BAUD, 20_000_000)
    return _mavlink(url, lambda: Serial(path, baud), rate_hz)


def _mavlink(url: _Url, link: Callable[[], ByteLink], rate_hz: float, *, speak: bool = False) -> Reader:
    from edge.sources.mavlink_link import MavlinkReader

    system, component = url.number("system", 0, 255), url.number("component", 0, 255)
    ask = url.number("ask", 0, 1)
    url.check()  # before the link's thread begins
    return MavlinkReader(link(), system=system, component=component, speak=speak, ask_hz=ask * rate_hz)


def _mqtt(url: _Url, _rate_hz: float, _hold_s: float) -> Reader:
    from edge.sources.mqtt import MqttReader

    host, port = url.address(default_port=1883)
    topics = unquote(url.parts.path).removeprefix("/")
    levels = topics.split("/")
    wild = [level for level in levels if "+" in level or "#" in level]
    if not topics or any(len(level) > 1 for level in wild) or "#" in levels[:-1] or "\0" in topics:
        raise url.wrong("mqtt://host:port/topic, + and # as whole levels, # at its end", topics or "no topic")
    user, file = url.text("user"), url.text("password_file")
    url.check()
    if file and not user:
        raise url.wrong("user beside password_file", "none")
    try:
        password = Path(file).read_text(encoding="utf-8").strip() if file else None
    except (OSError, UnicodeDecodeError) as error:
        raise url.wrong(
            "a readable password_file", f"{file}: {getattr(error, 'strerror', None) or 'no text'}"
        ) from error
    return MqttReader(host, port, topics, user=user, password=password)


def _stdin(url: _Url, rate_hz: float, hold_s: float) -> Reader:
    from edge.sources.lines import LinesReader

    if url.parts.netloc or url.parts.path.strip("/"):
        raise url.wrong("stdin:", url.parts.netloc + url.parts.path)
    return LinesReader(0, rate_hz, hold_s)


def _tail(url: _Url, rate_hz: float, hold_s: float) -> Reader:
    from edge.sources.tail import TailReader

    begin = url.text("from", "end")
    if begin not in {"start", "end"}:
        raise url.wrong("from=start or from=end", begin)
    return TailReader(url.path(), rate_hz, hold_s, from_start=begin == "start")


def _system(url: _Url, rate_hz: float, _hold_s: float) -> Reader:
    from edge.sources.system import SystemReader

    if url.parts.netloc or url.parts.path.strip("/"):
        raise url.wrong("system:", url.parts.netloc + url.parts.path)
    root = url.text("root", "/")
    interval_s = url.seconds("interval_s", min(_SYSTEM_S, 1.0 / rate_hz))
    url.check()
    return SystemReader(interval_s, root)


_OPENERS: dict[str, Callable[[_Url, float, float], Reader]] = {
    "mavlink+udp": _udp,
    "mavlink+udp-out": _udp,
    "mavlink+serial": _serial,
    "mqtt": _mqtt,
    "stdin": _stdin,
    "tail": _tail,
    "system": _system,
}


def describe(spec: str | Sequence[str], seconds: float) -> list[dict[str, object]]:
    """What a source offers, listened to for a while: `channel`, `rate_hz` of its readings, `last` value, by name.

    Raises:
        CoveyError: as `open_source`; or nothing came and the source says why.
    """
    from edge.sources.describe import describe as listen

    return listen([spec] if isinstance(spec, str) else spec, seconds)
