"""`covey cloud command`: an order to devices, and what they answer. Libraries load inside the command."""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from cloud.options import AsJson, Store  # noqa: TC001  # typer reads annotations when it runs
from covey.errors import UsageError


class Kind(str, Enum):
    """What an agent understands."""

    ping = "ping"
    summarise = "summarise"
    false_alarm = "false-alarm"
    learn = "learn"


def register(app: typer.Typer) -> None:
    """Add the command to `covey cloud`."""
    app.command(epilog="Example: covey cloud command drone-3 ping --expires 60 --wait 10 --store covey.db")(command)


def command(
    devices: Annotated[
        list[str] | None, typer.Argument(metavar="[DEVICE]...", help="Names; none with --group or --all.")
    ] = None,
    *,
    kind: Annotated[
        Kind,
        typer.Argument(
            metavar="KIND",
            help="ping: answer. summarise: write a summary now, and answer. "
            "false-alarm: the windows of --alarm go back into the device's ring. "
            "learn: join --superlink for one run.",
        ),
    ],
    alarm: Annotated[str, typer.Option("--alarm", help="Id of the alarm that was none, with false-alarm.")] = "",
    superlink: Annotated[str, typer.Option("--superlink", help="HOST:PORT to join, with learn.")] = "",
    learn_s: Annotated[float, typer.Option("--learn-s", help="Leave it after so long, with learn.", min=1)] = 3600.0,
    group: Annotated[str | None, typer.Option("--group", help="Every device of this group.")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Every device in the store.")] = False,
    expires: Annotated[float, typer.Option("--expires", help="Seconds it holds, at most 86400 (a day).")] = 60.0,
    wait: Annotated[
        float | None, typer.Option("--wait", help="Seconds to wait for answers; 0: none. Else until it expires.", min=0)
    ] = None,
    store: Store = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file; options win over it.")] = None,
    stack: Annotated[
        Path | None, typer.Option("--stack", help="Folder of `covey up`: tells store and brokers.")
    ] = None,
    kafka: Annotated[str | None, typer.Option("--kafka", help="Bootstrap servers of the Kafka API.")] = None,
    kafka_kind: Annotated[str | None, typer.Option("--kafka-kind", help="kafka or embedded.")] = None,
    as_json: AsJson = False,
) -> None:
    """Give devices an order that expires, and print what each answers; exit 1 when one did not, or said no."""
    from cloud import command as commands
    from cloud import output
    from cloud.config import CloudConfig
    from covey import runtime
    from covey.config import load

    if stack is not None:
        from covey.stack import HOST, read_state

        told = read_state(stack.resolve())
        store = store or told["store"]
        kafka, kafka_kind = kafka or f"{HOST}:{told['ports']['kafka']}", kafka_kind or "embedded"
    options = {"store": store, "kafka": kafka, "kafka_kind": kafka_kind, "broker_instance": "none"}
    settings = load(CloudConfig, "cloud", config, options)
    if bool(alarm) != (kind is Kind.false_alarm):
        raise UsageError(
            f"--alarm: an alarm's id with false-alarm, and only there, expected; {kind.value} {alarm} came"
        )
    if bool(superlink) != (kind is Kind.learn):
        raise UsageError(f"--superlink: HOST:PORT with learn, and only there, expected; {kind.value} {superlink} came")
    names = _names(settings.store, devices or [], group, everyone=everyone)
    stop = runtime.install_stop()
    wait_s = expires if wait is None else wait
    answers = commands.send(
        settings,
        names,
        kind.value,
        alarm_id=alarm,
        superlink=superlink,
        deadline_s=time.time() + learn_s if superlink else 0.0,
        expires_s=expires,
        wait_s=wait_s,
        stop=stop,
    )
    if as_json:
        output.print_json(answers)
    else:
        columns = ("device", "command", "state", "seconds", "id", "detail")
        output.print_table(columns, [[a.device, a.kind, a.state, a.seconds, a.id, a.detail] for a in answers])
    if any(answer.state not in ("ok", "sent") for answer in answers):
        raise typer.Exit(1)


def _names(store: str, devices: list[str], group: str | None, *, everyone: bool) -> list[str]:
    """Who is meant: names that the store knows, each once."""
    from cloud.store import reader
    from cloud.store.schema import open_store

    if bool(devices) + (group is not None) + everyone != 1:
        raise UsageError("command: devices, --group or --all expected, and one of them only")
    engine = open_store(store, create=False)
    try:
        known = reader.names(engine, group)
    finally:
        engine.dispose()
    if not devices:
        if not known:
            raise UsageError("--all: no device is known yet" if everyone else f"--group {group}: no device is in it")
        return known
    unknown = sorted(set(devices) - set(known))
    if unknown:
        raise UsageError(f"device: a device in the store expected, {', '.join(unknown)[:200]} received")
    return list(dict.fromkeys(devices))
