"""`covey model fit`: one federated round over files in this process; each file is a device."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None)


@app.callback()
def _model() -> None:
    """Models on files."""


@app.command(
    epilog="Example: covey model fit --data flight1 --data flight2 --family pca --out model.zip",
)
def fit(
    data: Annotated[list[Path], typer.Option("--data", help="CSV, NPZ or flight log; each is a device. Repeat.")],
    out: Annotated[Path, typer.Option("--out", help="The bundle to write.")],
    rows: Annotated[str | None, typer.Option("--rows", help="A:B: rows of every file to learn from.")] = None,
    columns: Annotated[str | None, typer.Option("--columns", help="Channels, separated by commas.")] = None,
    family: Annotated[str, typer.Option("--family", help="pca or dense-ae.")] = "pca",
    features: Annotated[str, typer.Option("--features", help="auto, drone, lag or temporal.")] = "auto",
    window: Annotated[int | None, typer.Option("--window", min=1, help="Samples a window.")] = None,
    group: Annotated[str, typer.Option("--group", help="Group of devices the model is for.")] = "default",
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="1 for pca, 10 for dense-ae.")] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fit a model on files of normal data and write it as a bundle."""
    from covey.runtime import install_stop
    from federated.cli import plan_of, say, span, words
    from federated.training import devices_of_files, run

    devices = devices_of_files(data)
    plan = plan_of(
        family=family,
        group=group,
        features=features,
        window=window,
        columns=words(columns),
        rows=span(rows),
        rounds=rounds or (10 if family == "dense-ae" else 1),
        min_clients=len(devices),
        timeout_s=3600.0,
        seed=seed,
        strict=True,
    )
    report = run(
        plan,
        devices,
        engine="simulation",
        out=out,
        initial=None,
        checkpoint=None,
        resume=False,
        stop=install_stop(),
    )
    say(report, as_json=as_json)
