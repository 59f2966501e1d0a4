"""The options that set keys of AgentConfig, written once for `covey edge run`, `config` and `install`. Loads nothing heavy."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

FLAGS = {"sources": "--source"}  # options that are not called as their key is; the rest are --key-with-dashes

Config = Annotated[Path | None, typer.Option("--config", help="TOML file; `covey edge config` shows every key.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_SOURCE = (
    "Recording to play; repeat for several. Or one live source: mavlink+udp://HOST:PORT, mavlink+udp-out://HOST:PORT, "
    "mavlink+serial:///dev/ttyACM0?baud=921600, mqtt://HOST:PORT/TOPIC, tail:///FILE.csv, stdin: or system:"
)
_Text, _Texts, _Number, _Switch = str | None, list[str] | None, float | None, bool | None

_OPTIONS: dict[str, Any] = {
    "device": Annotated[_Text, typer.Option("--device", help="Name in topics and identities.")],
    "mqtt": Annotated[_Text, typer.Option("--mqtt", help="MQTT 5 broker, host:port.")],
    "state": Annotated[_Text, typer.Option("--state", help="Private folder: outbox, ring, models.")],
    "bundle": Annotated[_Text, typer.Option("--bundle", help="Model to install at the first start.")],
    "sources": Annotated[_Texts, typer.Option("--source", help=_SOURCE)],
    "commission": Annotated[
        _Texts, typer.Option("--commission", help="Flight flown before, for the ring; repeat.")
    ],
    "commission_fitted": Annotated[
        _Texts, typer.Option("--commission-fitted", help="The same, but the bundle was fitted on it; repeat.")
    ],
    "learn": Annotated[
        _Switch, typer.Option("--learn/--no-learn", help="Put the sources' normal windows into the ring.")
    ],
    "speed": Annotated[_Number, typer.Option("--speed", help="Times real time; 0: as fast as possible.")],
    "runtime": Annotated[_Text, typer.Option("--runtime", help="auto, litert, onnx or tflite.")],
    "summary_interval_s": Annotated[
        _Number, typer.Option("--summary-interval-s", help="Between two summaries, wall clock.")
    ],
    "trusted_root": Annotated[
        _Text, typer.Option("--trusted-root", help="TUF root.json; without it no update is taken.")
    ],
    "repeat": Annotated[_Switch, typer.Option("--repeat", help="Play the sources again and again.")],
    "exit_when_done": Annotated[
        _Switch, typer.Option("--exit-when-done", help="End when every source was played.")
    ],
    "log_level": Annotated[_Text, typer.Option("--log-level", help="debug, info, warning or error.")],
}  # fmt: skip


def agent_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--config` and every option above; it takes them as its first argument, a dict of key -> value or None."""
    own = inspect.signature(command).parameters
    hints = get_type_hints(command, include_extras=True)

    def run(**given: Any) -> None:
        options = {key: given.pop(key) for key in _OPTIONS}
        command(options, **given)

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("config", kind, default=None, annotation=Config)]
    parameters += [inspect.Parameter(key, kind, default=None, annotation=how) for key, how in _OPTIONS.items()]
    rest = [one.replace(kind=kind, annotation=hints[name]) for name, one in list(own.items())[1:] if name != "config"]
    run.__signature__ = inspect.Signature(parameters + rest)  # type: ignore[attr-defined]  # inspect and typer read it
    run.__annotations__ = {one.name: one.annotation for one in parameters + rest}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run
