"""`covey cloud devices`: the fleet as a table, and what operators change of a device. Libraries load inside the commands."""

from __future__ import annotations

from typing import Annotated

import typer

from cloud.options import AsJson, Store  # noqa: TC001  # typer reads annotations when it runs
from covey.errors import UsageError

app = typer.Typer(
    help="Devices: list them, add, move, label, retire, forget, set parameters.",
    epilog="Example: covey cloud devices move drone-3 --group north --store covey.db",
    rich_markup_mode=None,
    invoke_without_command=True,
)

Device = Annotated[str, typer.Argument(metavar="DEVICE", help="Its name.")]
Devices = Annotated[list[str], typer.Argument(metavar="DEVICE...", help="Their names.")]
BaseUrl = Annotated[
    str | None,
    typer.Option("--base-url", help="Of `covey cloud serve`, as devices see it; else what `run` was told."),
]


@app.callback(epilog="Example: covey cloud devices --store covey.db --json")
def devices(context: typer.Context, store: Store = None, as_json: AsJson = False) -> None:
    """Every device: what it runs, what is wanted of it, what it has sent."""
    if context.invoked_subcommand is None:
        list_(store, as_json=as_json)
        return
    for name in ("store", "as_json"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":  # the environment's store holds for all of them
            raise UsageError(f"devices: options after the word {context.invoked_subcommand!r} expected, not before it")


@app.command("list", epilog="Example: covey cloud devices list --group north --store covey.db")
def list_(
    store: Store = None,
    group: Annotated[str | None, typer.Option("--group", help="Of one group only.")] = None,
    retired: Annotated[bool, typer.Option("--retired", help="The retired ones, too.")] = False,
    label: Annotated[list[str] | None, typer.Option("--label", help="KEY=VALUE; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Every device: what it runs, what is wanted of it, what it has sent."""
    from cloud import output, show_cli
    from cloud.store import reader

    asked = _pairs(label or [])
    with show_cli.opened(store) as engine:
        rows = [
            row
            for row in reader.fleet(engine)
            if (group is None or row["group"] == group)
            and (retired or row["state"] != "retired")
            and all(row["labels"].get(key) == value for key, value in asked.items())
        ]
    if as_json:
        output.print_json(rows)
        return
    columns = ["device", "group", "online", "release", "wanted", "runtime", "state"]
    columns += ["windows", "alarms", "open", "seen", "labels"]
    output.print_table(columns, [[*show_cli.device_cells(row), _told(row["labels"])] for row in rows])


@app.command(epilog="Example: covey cloud devices add drone-9 --group north --label site=quay --store covey.db")
def add(
    device: Device,
    group: Annotated[str, typer.Option("--group", help="Group of devices that share a model.")] = "default",
    label: Annotated[list[str] | None, typer.Option("--label", help="KEY=VALUE; may be repeated.")] = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Name a device before it is first heard, with its group and labels."""
    from cloud import show_cli
    from cloud.desk import audit
    from cloud.desk import devices as desk

    with show_cli.opened(store) as engine:
        desk.add(engine, device, group, _pairs(label or []), audit.command_line())
    _say({"device": device, "group": group}, as_json=as_json)


@app.command(epilog="Example: covey cloud devices move drone-3 drone-4 --group north --store covey.db")
def move(
    devices: Devices,
    group: Annotated[str, typer.Option("--group", help="Where to.")],
    store: Store = None,
    base_url: BaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Put devices into another group; that group's newest release is wanted of them then."""
    from cloud import output, show_cli
    from cloud.desk import audit
    from cloud.desk import devices as desk
    from cloud.learn.desired import known_base_url

    moved = []
    with show_cli.opened(store) as engine:
        url = base_url or known_base_url(engine)
        for device in dict.fromkeys(devices):
            release = desk.move(engine, device, group, url, audit.command_line())
            moved.append({"device": device, "group": group, "wanted": release})
    if as_json:
        output.print_json(moved)
    else:
        output.print_table(("device", "group", "wanted"), [list(one.values()) for one in moved])


@app.command(epilog="Example: covey cloud devices label drone-3 site=quay owner= --store covey.db")
def label(
    device: Device,
    labels: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="KEY= takes a label away.")],
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Set labels, by which devices are found and alarms are routed."""
    from cloud import show_cli
    from cloud.desk import audit
    from cloud.desk import devices as desk

    wanted: dict[str, str | None] = {key: value or None for key, value in _pairs(labels).items()}
    with show_cli.opened(store) as engine:
        have = desk.label(engine, device, wanted, audit.command_line())
    _say({"device": device, "labels": have if as_json else _told(have)}, as_json=as_json)


@app.command(epilog="Example: covey cloud devices retire drone-3 --store covey.db")
def retire(
    device: Device,
    store: Store = None,
    back: Annotated[bool, typer.Option("--back", help="Take a retired device into the fleet again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take a device out of the fleet's views; its data stay."""
    from cloud import show_cli
    from cloud.desk import audit
    from cloud.desk import devices as desk

    state = "active" if back else "retired"
    with show_cli.opened(store) as engine:
        desk.set_state(engine, device, "active" if back else "retired", audit.command_line())
    _say({"device": device, "state": state}, as_json=as_json)


@app.command(epilog="Example: covey cloud devices forget drone-3 --confirm drone-3 --store covey.db")
def forget(
    device: Device,
    confirm: Annotated[str, typer.Option("--confirm", help="The device's name again: this cannot be undone.")],
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Erase all data of a device, and print the receipt."""
    from cloud import output, show_cli
    from cloud.desk import audit, erase

    if confirm != device:
        raise UsageError(f"--confirm: {device} expected, {confirm[:80]} received")
    with show_cli.opened(store) as engine:
        receipt = erase.forget(engine, device, audit.command_line())
    if as_json:
        output.print_json(receipt)
    else:
        output.print_pairs({**receipt, "left": "; ".join(receipt["left"])})


@app.command(epilog="Example: covey cloud devices parameters drone-3 --summary-interval-s 30 --store covey.db")
def parameters(
    device: Device,
    summary_interval_s: Annotated[
        float | None, typer.Option("--summary-interval-s", help="Seconds between summaries.")
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Give all of them back to the device.")] = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Have a device use other parameters, sent with what is wanted of it."""
    import msgspec

    from cloud import show_cli
    from cloud.desk import audit
    from cloud.desk import devices as desk

    if (summary_interval_s is None) != reset:
        raise UsageError("parameters: --summary-interval-s or --reset expected, and one of them only")
    with show_cli.opened(store) as engine:
        changes = {"summary_interval_s": summary_interval_s}
        now = desk.set_parameters(engine, device, changes, audit.command_line())
    _say({"device": device, **msgspec.structs.asdict(now)}, as_json=as_json)


def _pairs(words: list[str]) -> dict[str, str]:
    pairs = {}
    for word in words:
        key, mark, value = word.partition("=")
        if not mark or not key:
            raise UsageError(f"label: KEY=VALUE expected, {word[:80]!r} received")
        pairs[key] = value
    return pairs


def _told(labels: dict[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in labels.items()) or "-"


def _say(value: dict[str, object], *, as_json: bool) -> None:
    from cloud import output

    if as_json:
        output.print_json(value)
    else:
        output.print_pairs(value)
