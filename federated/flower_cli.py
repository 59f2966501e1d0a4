"""`covey federated superlink | join | keys`: engine `flower` on both ends. Heavy libraries are imported inside the commands."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from covey.errors import UsageError

keys = typer.Typer(
    help="Keys of nodes and signers, and who may join a SuperLink.", no_args_is_help=True, rich_markup_mode=None
)

_FOLDER = "Folder of the SuperLink: its database, token and certificates."
Folder = Annotated[Path, typer.Option("--folder", help=_FOLDER)]
DieWithParent = Annotated[bool, typer.Option("--die-with-parent", help="End when the starting process ends.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `covey federated`."""
    app.command(epilog="Example: covey federated superlink --folder /var/lib/covey-superlink --name cloud.example.org")(
        superlink
    )
    app.command(
        epilog="Example: covey federated join --superlink cloud.example.org:9092 --ring /var/lib/covey/ring.bin "
        "--key node.key --ca ca.pem"
    )(join)
    app.add_typer(keys, name="keys")


def superlink(
    folder: Folder,
    host: Annotated[
        str, typer.Option("--host", help="Address that devices reach; control stays on loopback.")
    ] = "0.0.0.0",  # noqa: S104
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of the fleet API; 0: any free one.")] = 9092,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="Host name or address that devices use; the certificate is for it. Repeat."),
    ] = None,
    database: Annotated[str, typer.Option("--database", help="SQLite file in --folder.")] = "superlink.db",
    cert: Annotated[Path | None, typer.Option("--cert", help="PEM chain in place of an own CA's; needs --key.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="PEM key of --cert.")] = None,
    signed_app: Annotated[
        Path | None, typer.Option("--app", help="Signed app (covey federated keys sign), for nodes that ask for one.")
    ] = None,
    die_with_parent: DieWithParent = False,
) -> None:
    """Run Flower's SuperLink: devices reach its fleet API by TLS, and only that; control is on loopback with a token."""
    import os

    from federated.engines.flower import superlink_words

    link = link_of(folder, host, port, name, database, cert, key, signed_app)
    words, _ = superlink_words(link, die_with_parent=die_with_parent)
    os.execv(sys.executable, words)  # noqa: S606  # no shell is wanted


def join(
    superlink: Annotated[str | None, typer.Option("--superlink", help="HOST:PORT of its fleet API.")] = None,
    ring: Annotated[Path, typer.Option("--ring", help="This device's ring; read by its own learner only.")] = Path(
        "/var/lib/covey/ring.bin"
    ),
    key: Annotated[Path, typer.Option("--key", help="This device's node key (covey federated keys node).")] = Path(
        "/etc/covey/node.key"
    ),
    ca: Annotated[Path, typer.Option("--ca", help="CA of the SuperLink's certificate, PEM.")] = Path(
        "/etc/covey/superlink-ca.pem"
    ),
    trusted: Annotated[
        list[Path] | None,
        typer.Option("--trusted", help="Public key of a signer: only apps signed by one of them are run. Repeat."),
    ] = None,
    request: Annotated[
        Path | None, typer.Option("--request", help="Take address and deadline from the agent's request file.")
    ] = None,
    home: Annotated[Path | None, typer.Option("--home", help="Flower's own files, emptied; beside the ring.")] = None,
    wait_s: Annotated[float, typer.Option("--wait-s", min=1, help="For the first question.")] = 300.0,
    idle_timeout_s: Annotated[float, typer.Option("--idle-timeout-s", min=1, help="After the last answer.")] = 120.0,
    deadline_s: Annotated[float, typer.Option("--deadline-s", min=1, help="Of it all.")] = 3600.0,
    nice: Annotated[int, typer.Option("--nice", min=0, max=19, help="Added to the niceness.")] = 10,
    memory_mb: Annotated[
        int | None, typer.Option("--memory-mb", min=128, help="Data of each process; else the unit's limit.")
    ] = None,
    die_with_parent: DieWithParent = False,
) -> None:
    """Be a SuperNode for this device: join, learn in one run, leave. The windows stay here."""
    import time

    from covey import runtime
    from federated.engines.flower_node import NodePlan
    from federated.join import join as take_part
    from federated.join import take_request

    if (superlink is None) == (request is None):
        raise UsageError("--superlink or --request: one of them expected")
    if request is not None:
        asked = take_request(request)
        superlink, deadline_s = asked.superlink, min(deadline_s, asked.deadline_s - time.time())
    if die_with_parent:
        runtime.die_with_parent()
    plan = NodePlan(
        superlink=superlink or "",
        ring=str(ring.absolute()),
        key=str(key),
        ca=str(ca),
        home=str((home or ring.absolute().parent / "learn").absolute()),
        signers=[str(one) for one in trusted or []],
        wait_s=min(wait_s, deadline_s),
        idle_s=idle_timeout_s,
        deadline_s=deadline_s,
    )
    memory_bytes = memory_mb * 1024 * 1024 if memory_mb is not None else None
    take_part(plan, nice=nice, memory_bytes=memory_bytes, say=lambda line: typer.echo(line, err=True))


@keys.command("node", epilog="Example: covey federated keys node --out node.key")
def node_key(
    out: Annotated[Path, typer.Option("--out", help="Private key to write; PATH.pub goes beside it.")],
) -> None:
    """Make a device's key; the private one stays on the device."""
    from federated.engines.flower_keys import make_node_key

    typer.echo(str(make_node_key(out)))


@keys.command("signer", epilog="Example: covey federated keys signer --out signer.key")
def signer_key(
    out: Annotated[Path, typer.Option("--out", help="Private key to write; PATH.pub goes beside it.")],
) -> None:
    """Make the key of somebody who vouches for apps; keep the private one off the SuperLink's machine."""
    from federated.engines.flower_keys import make_signer_key

    typer.echo(str(make_signer_key(out)))


@keys.command(epilog="Example: covey federated keys sign --key signer.key --out learning-app.json")
def sign(
    key: Annotated[Path, typer.Option("--key", help="The signer's private key.")],
    out: Annotated[Path, typer.Option("--out", help="Signed app to write.")],
) -> None:
    """Sign the app that nodes are asked to run: it names the installed package's code and holds none."""
    import msgspec

    from covey.runtime import write_whole
    from federated.engines.flower_control import learning_app
    from federated.engines.flower_keys import sign_app

    signed = sign_app(learning_app(), key)
    try:
        write_whole(out, msgspec.json.encode(signed))
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror}") from error
    typer.echo(f"{out}  {signed.signer}")


@keys.command("register", epilog="Example: covey federated keys register drone-3 node.key.pub --folder ./superlink")
def register_key(
    device: Annotated[str, typer.Argument(help="Name of the device.")],
    public: Annotated[Path, typer.Argument(help="Its public key.")],
    folder: Folder,
) -> None:
    """Let a device join."""
    from covey import topics
    from federated.engines.flower_keys import read_node_public

    if not topics.is_device(device):
        raise UsageError(f"device: 1-64 letters, digits, '.', '_', '-' expected, {device!r} came")
    content = read_node_public(public)
    with _control(folder) as control:
        typer.echo(str(control.register(device, content)))


@keys.command(epilog="Example: covey federated keys unregister drone-3 --folder ./superlink")
def unregister(device: Annotated[str, typer.Argument(help="Name of the device.")], folder: Folder) -> None:
    """Let a device join no more; one that has joined is put out within seconds."""
    with _control(folder) as control:
        typer.echo(str(control.unregister(device)))


@keys.command("list", epilog="Example: covey federated keys list --folder ./superlink --json")
def list_keys(
    folder: Folder, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False
) -> None:
    """Devices that may join, and which have."""
    with _control(folder) as control:
        nodes = control.nodes()
    if as_json:
        typer.echo(json.dumps([{"device": node.name, "id": str(node.id), "status": node.status} for node in nodes]))
        return
    typer.echo(f"{'device':24} {'status':10} id")
    for node in nodes:
        typer.echo(f"{node.name:24} {node.status:10} {node.id}")


def link_of(
    folder: Path,
    host: str,
    port: int,
    names: list[str] | None,
    database: str,
    cert: Path | None,
    key: Path | None,
    signed_app: Path | None,
) -> Any:
    """A SuperLink of one's own, from options."""
    from federated.engines.flower import Link

    return Link(
        folder=str(folder),
        own=True,
        database=database,
        host=host,
        port=port,
        names=names or [],
        cert=str(cert) if cert is not None else None,
        key=str(key) if key is not None else None,
        app=str(signed_app) if signed_app is not None else None,
    )


def _control(folder: Path) -> Any:
    from federated.engines.flower import find
    from federated.engines.flower_control import Control

    found = find(folder)
    return Control(found.control, found.token_file)
