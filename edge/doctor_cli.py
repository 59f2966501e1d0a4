"""`covey edge doctor`: facts are looked at, judged and told."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from edge.options import AsJson, Config  # noqa: TC001  # typer reads annotations when it runs

_INSTALLED = Path("/etc/covey/edge.toml")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: covey edge doctor --config /etc/covey/edge.toml --json")(doctor)


def doctor(config: Config = None, as_json: AsJson = False) -> None:
    """Tell what really runs on this device, and one fix for each thing that does not; exit 1 when something required fails.

    With a configuration (by default the installed one) it also looks at the state folder, the broker, certificates, the model
    and the sources. It subscribes to nothing and publishes nothing; a running agent goes on.
    """
    from covey.config import load
    from edge.config import AgentConfig
    from edge.doctor import judge
    from edge.doctor_probe import probe

    path = config or (_INSTALLED if _INSTALLED.is_file() else None)
    facts = probe(load(AgentConfig, "edge", path) if path is not None else None)
    lines = judge(facts)
    ok = all(line.ok for line in lines)
    if as_json:
        checks = [
            {"name": one.name, "ok": one.ok, "state": one.state.lower(), "detail": one.detail, "fix": one.fix}
            for one in lines
        ]
        told = {"ok": ok, "config": str(path or ""), "python": facts.machine.python, "numpy": facts.machine.numpy}
        typer.echo(json.dumps(told | {"runtimes": facts.runtimes, "checks": checks}, indent=2))
    else:
        typer.echo(f"ok    python         {facts.machine.python}, numpy {facts.machine.numpy or 'missing'}")
        for one in facts.runtimes:
            told_one = f"{one['version']}, {one['provider']}" if one["ok"] else str(one["problem"])
            _tell("ok" if one["ok"] else "note", str(one["runtime"]), told_one, str(one["fix"]))
        for line in lines:
            _tell(line.state, line.name, line.detail, line.fix)
        if path is None:
            typer.echo("without --config: the machine alone was looked at", err=True)
    if not ok:
        raise typer.Exit(1)


def _tell(state: str, name: str, detail: str, fix: str) -> None:
    typer.echo(f"{state:<4}  {name:<13}  {detail}" + (f"\n{'':<21}fix: {fix}" if fix else ""))
