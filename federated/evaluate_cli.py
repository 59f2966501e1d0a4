"""`covey federated evaluate`: figures with truth, on the public sets or on recordings of their form."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from covey.errors import UsageError

if TYPE_CHECKING:
    from federated.config import Plan

EPILOG = "Example: covey federated evaluate --protocol skab --data SKAB/data --json"


def evaluate(
    protocol: Annotated[str, typer.Option("--protocol", help="skab, fleet, coldstart or crazypad.")],
    data: Annotated[Path, typer.Option("--data", help="Folder with the set's files, at any depth.")],
    family: Annotated[str | None, typer.Option("--family", help="pca (default), dense-ae, ...")] = None,
    plan_file: Annotated[
        Path | None, typer.Option("--plan", help="TOML with any option of a training plan (features, family, ...).")
    ] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="1 for pca, 10 for autoencoders.")] = None,
    mode: Annotated[
        list[str] | None, typer.Option("--mode", help="local, pooled, federated or personal; repeat. All by default.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Repeat for the mean over several; 0.")] = None,
    prefix: Annotated[
        bool, typer.Option("--prefix", help="fleet: learn from the first rows of `test`, as TSB-AD does.")
    ] = False,
    starts: Annotated[
        int, typer.Option("--starts", min=1, help="coldstart: how many beginnings of the new device's days.")
    ] = 1,
    day_rows: Annotated[
        int | None, typer.Option("--day-rows", min=1, help="coldstart: rows of a day; 288 for ASD, 1440 for SMD.")
    ] = None,
    vus_buffer: Annotated[int, typer.Option("--vus-buffer", min=0, help="Largest buffer of VUS-PR, in rows.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score what would ship, beside what it competes with: local, pooled, federated, federated and personal; fp32 and int8.

    Every figure goes through a bundle, the device's calibration and causal scores. No point adjustment anywhere.
    """
    from federated.evaluation.protocols import MODES
    from federated.evaluation.report import Options, show
    from federated.evaluation.report import evaluate as run

    options = Options(
        protocol=protocol,
        modes=tuple(mode or MODES),
        seeds=tuple(seed or (0,)),
        prefix=prefix,
        starts=starts,
        day_rows=day_rows,
        vus_buffer=vus_buffer,
    )
    if prefix and protocol != "fleet":
        raise UsageError(f"--prefix: protocol fleet expected, {protocol} came")
    plan = plan_from(plan_file, family, rounds)
    report = run(data, plan, options, lambda line: typer.echo(line, err=True))
    if as_json:
        typer.echo(json.dumps(report))
        return
    from rich.console import Console

    show(report, Console())


def plan_from(path: Path | None, family: str | None, rounds: int | None) -> "Plan":
    """The plan of a file, with what the options say instead; `pca` where neither names a family.

    Raises:
        ConfigError: an option that no plan has, out of range, or that does not go with the others.
    """
    from federated.evaluation.runs import AE_ROUNDS
    from federated.families import family_of
    from federated.plans import make_plan, read_plan

    told = read_plan(path) if path is not None else {}
    told |= {name: value for name, value in (("family", family), ("rounds", rounds)) if value is not None}
    told.setdefault("family", "pca")
    plan = make_plan(told, str(path) if path is not None else "options")
    if "rounds" in told or family_of(plan.family).one_shot:
        return plan
    return make_plan({**told, "rounds": AE_ROUNDS}, str(path) if path is not None else "options")
