"""The Flower ServerApp: rounds of learning, two rounds of federated evaluation, the gates, the bundle.

It writes files and nothing else: a checkpoint after every round, `report.json`, and, when every gate is passed, the
bundle, whole. It never sees a window. A run that fails leaves its checkpoints and no bundle.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from flwr.serverapp import Grid, ServerApp

from covey.bundle import MAX_BUNDLE_BYTES, STATE, Bundle, Inputs, pack, read_bundle, sha256
from covey.errors import BundleError
from covey.runtime import write_whole
from edge.scoring.windows import DRONE_CHANNELS
from federated import gate
from federated.checkpoint import BUNDLE, Checkpoints, identity_of
from federated.client_app import arrays_of_graph
from federated.compile.export import compile_graph, export, trimmed
from federated.compile.quantize import Ranges, merge_ranges
from federated.config import Job, Plan, choose_inputs, read_struct, settled, write_struct
from federated.evaluate import Judgement, judged_shapes, pool, refuse_worse
from federated.events import Events
from federated.families import family_for, pack_state, unpack_state
from federated.own import draft_of
from federated.records import deflated
from federated.rounds import Course, Traffic, play
from federated.rounds import config as of_round
from federated.strategy import Answers, Crew
from federated.streams import DAYS, following, kind_of, likely_day, stream_of
from federated.views import graph_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from flwr.app import Context

    from covey.bundle import Manifest
    from federated.compile.graph import Graph
    from federated.families import Family
    from federated.gate import Arrays
    from federated.streams import Kind

app = ServerApp()


class Report(msgspec.Struct, frozen=True):
    """What a run was, for people and programs."""

    engine: str
    family: str
    rounds: int
    clients: int
    failed: dict[str, str]  # device -> why, of any phase
    bytes_down_per_device: int
    bytes_up_per_device: int
    evidence: dict[str, float]
    out: str
    digest: str
    seconds: float
    epsilon: float | None = None  # of a private run
    ended: str = ""  # why before its last round


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the job named by the run configuration (`job`, JSON) and write its report."""
    config = context.run_config
    job = read_struct(Job, str(config["job"]), "job")
    names: dict[str, str] = {}
    if "names" in config:  # device names, where the engine knows them
        names = msgspec.json.decode(str(config["names"]), type=dict[str, str])
    with Events(Path(job.checkpoint), resume=job.resume) as events:
        engine = str(config.get("engine", "flower"))
        report = train(grid, job, lambda node: names.get(str(node), str(node)), engine=engine, events=events)
        write_whole(Path(job.checkpoint) / "report.json", msgspec.json.encode(report))
        events.say("released", detail=report.digest, figures={"seconds": report.seconds})


def train(grid: Grid, job: Job, name_of: Callable[[int], str], engine: str, events: Events) -> Report:
    """One training run, from the devices' data to a bundle.

    Raises:
        AggregationError: a quorum is missed, or the candidate is worse than it may be.
        DataError, BundleError, UsageError: what was given cannot be used.
    """
    began = time.monotonic()
    plan = job.plan
    initial = read_bundle(Path(job.initial)) if job.initial is not None else None
    crew = Crew(grid, plan, name_of, events)
    traffic = Traffic(grid)
    failed: dict[str, str] = {}
    inputs, stream, rows = _inputs(crew, initial, failed)
    plan = msgspec.structs.replace(settled(plan, inputs, *stream), adapt=following(plan.adapt, rows))
    crew = replace(crew, plan=plan)
    family = family_for(plan)
    d = draft_of(plan, inputs, 1).model.inputs
    base = family.begin(plan, d) if initial is None else _state(initial, family.begin(plan, d))
    checkpoints = Checkpoints(Path(job.checkpoint))
    identity = identity_of(plan, inputs, initial.digest if initial is not None else None)
    state, rounds = checkpoints.begin(identity, resume=job.resume)
    told = {"rounds": plan.rounds, "timeout_s": plan.timeout_s}
    events.say("resumed" if rounds else "started", number=len(rounds), detail=f"{plan.family} {engine}", figures=told)
    asked = {"plan": write_struct(plan), "inputs": write_struct(inputs)}
    course = Course(crew, family, plan, d, base, asked, checkpoints, traffic, state, rounds, failed)
    course.channels = len(inputs.channels) if inputs.padded else 0
    play(course)
    state = exported(course, d)
    graph = family.to_graph(plan, state, drone=inputs.features.kind == "drone")
    manifest = _manifest(plan, inputs, graph, state, family)
    ranges, nodes = _observe(course, graph, manifest)
    events.say("ranges", figures={"low": min(ranges.low), "high": max(ranges.high), "tensors": len(ranges.low)})
    compiled = compile_graph(graph, ranges, family.headroom)
    judgement = _judge(crew, asked, pack(manifest, compiled.models), nodes, d, initial, failed)
    evidence = {
        "rounds": float(len(rounds)),
        "clients": float(rounds[-1].clients),
        "windows": float(rounds[-1].windows),
        **judgement.evidence,
    }
    events.say("gates", figures=evidence)
    refuse_worse(evidence, plan.gates)
    content = export(
        manifest,
        compiled,
        reference=judgement.reference,
        spread=judgement.spread,
        evidence=evidence,
        state=pack_state(state),
        made_s=time.time(),
    )
    if len(content) > MAX_BUNDLE_BYTES:
        raise BundleError(f"{job.out}: at most {MAX_BUNDLE_BYTES} bytes expected, {len(content)} made")
    try:
        write_whole(Path(job.checkpoint) / BUNDLE, content)  # what `covey federated export` needs no device for
        write_whole(Path(job.out), content)
    except OSError as error:
        raise BundleError(f"{job.out}: cannot be written: {error.strerror}") from error
    devices = max(len(list(grid.get_node_ids())), 1)
    return Report(
        engine=engine,
        family=plan.family,
        rounds=len(rounds),
        clients=rounds[-1].clients,
        failed=failed,
        bytes_down_per_device=traffic.down // devices,
        bytes_up_per_device=traffic.up // devices,
        evidence=evidence,
        out=job.out,
        digest=sha256(content),
        seconds=round(time.monotonic() - began, 3),
        epsilon=rounds[-1].epsilon,
        ended=course.ended,
    )


def exported(course: Course, d: int) -> Arrays:
    """The state as a bundle carries it: what the family and the group's defaults are made of, no rule's memory.

    Autoencoders whose weights travel rounded are rounded here, so that the graph that is evaluated is the one that is sent.
    """
    state = course.state or {}
    names = course.family.begin(course.plan, d).keys() | {"center", "scale"}
    kept = {name: values for name, values in state.items() if name in names}
    if course.plan.rule == "sum" or course.plan.compress == "none":
        return kept
    weights = course.family.down(kept)
    if course.views is not None and course.views.view:
        course.views.next(weights)  # what devices would begin another round with
        rounded = {name: values.astype(np.float32) for name, values in course.views.view.items()}
    else:
        rounded = {name: values.astype(np.float16).astype(np.float32) for name, values in weights.items()}
    gate.require_finite(rounded)
    return {**kept, **rounded}


def _note(failed: dict[str, str], answers: Answers) -> None:
    failed.update(answers.refused)
    failed.update(dict.fromkeys(answers.missing, "no answer in time"))


def _inputs(
    crew: Crew, initial: Bundle | None, failed: dict[str, str]
) -> tuple[Inputs, tuple[Kind, int], float | None]:
    """The initial bundle's inputs, or those that suit what the devices have; the stream; rows of the median device, if told."""
    if initial is not None:
        return initial.manifest.inputs, stream_of(initial.manifest), None
    shapes = {
        "channels": gate.Shape((-1,), "u", most=65_536),
        "shape": gate.Shape((2,)),
        "rows": gate.Shape((1,), "i"),
        "daily": gate.Shape((len(DAYS),)),
    }
    config = {"plan": write_struct(crew.plan)}
    answers = crew.ask("describe", "query", {}, config, lambda told: gate.fault(told, shapes))
    _note(failed, answers)
    offers = []
    for name in sorted(answers.arrays):
        told = answers.arrays[name]
        rate_hz, window = told["shape"].tolist()
        offers.append(
            (name, tuple(told["channels"].tobytes().decode(errors="replace").split("\n")), rate_hz, int(window))
        )
    answered = answers.arrays.values()
    stream: tuple[Kind, int] = ("process", 0)
    rows: float | None = None
    if answered:
        shares = np.median([told["daily"] for told in answered], axis=0)
        rows = float(np.median([told["rows"][0] for told in answered]))
        found = kind_of(shares, rows)
        wanted = crew.plan.stream
        best = DAYS[likely_day(shares)] if shares.max() > 0 else 0
        stream = found if wanted == "auto" else (wanted, best if wanted == "daily" else 0)
    return choose_inputs(crew.plan, offers, DRONE_CHANNELS, stream), stream, rows


def _state(initial: Bundle, like: Arrays) -> Arrays:
    """The state in a bundle, if it is one of this family and these features.

    Raises:
        BundleError: it is not.
    """
    if STATE not in initial.files:
        raise BundleError(f"bundle {initial.digest[:12]}: {STATE} to start from expected, not there")
    state = unpack_state(initial.files[STATE], f"bundle {initial.digest[:12]}: {STATE}")
    for name, values in like.items():
        if name not in state or state[name].shape != values.shape or not np.isfinite(state[name]).all():
            found = state[name].shape if name in state else "nothing"
            raise BundleError(
                f"bundle {initial.digest[:12]}: {STATE}: {name} of shape {values.shape} expected, {found} found "
                f"(family {initial.manifest.family})"
            )
    return state


def _manifest(plan: Plan, inputs: Inputs, graph: Graph, state: Arrays, family: Family) -> Manifest:
    draft = draft_of(plan, inputs, outputs=graph[-1].outputs)
    d = draft.model.inputs
    center, scale = state["center"].tolist(), np.maximum(state["scale"], 1e-4).tolist()
    defaults = msgspec.structs.replace(
        draft.defaults, center=center[:d], scale=scale[:d], channel_center=center[d:], channel_scale=scale[d:]
    )
    told = family.weigh(plan, state)
    if told is None:
        return msgspec.structs.replace(draft, defaults=defaults)
    if not inputs.features.own_scale:
        defaults = msgspec.structs.replace(defaults, scale=told.scale.tolist())
    return msgspec.structs.replace(
        draft,
        defaults=msgspec.structs.replace(defaults, weights=told.weights.tolist()),
        scoring=msgspec.structs.replace(
            draft.scoring,
            outputs=told.rule,
            alone=0.0 if plan.factor is not None else plan.temporal.alone or 0.0,
            known_windows=told.windows,
        ),
    )


def _observe(course: Course, graph: Graph, manifest: Manifest) -> tuple[Ranges, list[int]]:
    """Ranges of every tensor, and the nodes that hold the graph now."""
    crew, views = course.crew, course.views
    arrays = arrays_of_graph(graph)
    if manifest.inputs.padded and manifest.model.kind == "project" and not manifest.inputs.features.own_scale:
        arrays["scale"] = np.asarray(manifest.defaults.scale, np.float32)
    tensors = len(graph) + 1
    shapes = {"low": gate.Shape((tensors,)), "high": gate.Shape((tensors,))}

    def check(told: Arrays) -> str | None:
        return gate.fault(told, shapes) or (
            None if (told["low"] <= told["high"]).all() else "ranges: low <= high expected, the opposite came"
        )

    nodes = crew.judges()
    asked = of_round(course, len(course.rounds) + 1)
    whole = graph_whole(arrays)

    def sent(node: int) -> Arrays:
        return (views.graph_to(node, arrays) if views is not None else None) or whole

    answers = crew.ask("ranges", "evaluate.observe", whole if views is None else sent, asked, check, nodes=nodes)
    names = sorted(answers.arrays)
    sizes = [float(max(np.abs(answers.arrays[name][end][1:]).max() for end in ("low", "high"))) for name in names]
    for name, told in zip(names, gate.norm_faults(sizes), strict=True):
        if told is not None:  # one device's odd range would cost all of them their resolution
            answers.refused[name] = f"ranges: {told}"
            del answers.arrays[name]
    _note(course.failed, answers)
    ranges = merge_ranges(
        Ranges(tuple(answers.arrays[name]["low"].tolist()), tuple(answers.arrays[name]["high"].tolist()))
        for name in sorted(answers.arrays)
    )
    return ranges, [answers.nodes[name] for name in answers.arrays]


def _judge(
    crew: Crew,
    asked: dict[str, str],
    content: bytes,
    nodes: list[int],
    d: int,
    initial: Bundle | None,
    failed: dict[str, str],
) -> Judgement:
    """Federated evaluation of the candidate's files, beside its graph and the current release's files."""
    arrays: Arrays = {"candidate": deflated(content)}
    if initial is not None:
        arrays["current"] = deflated(trimmed(initial))

    def check(told: Arrays) -> str | None:
        return gate.fault(told, judged_shapes(told, d)) or (None if len(told) > 2 else "figures of a runtime expected")

    answers = crew.ask("evaluation", "evaluate.judge", arrays, asked, check, nodes=nodes)
    _note(failed, answers)
    return pool([answers.arrays[name] for name in sorted(answers.arrays)])
