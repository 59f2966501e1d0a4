"""The story: fit, fly, alarm, learn together, release, swap; then the report. Starts roles only as processes.

fit a first bundle on few healthy flights -> agents score their flights at an accelerated clock -> the damaged ones
alarm, and the gateway is killed on the way -> devices without an alarm teach in a federated round, each from its own
ring -> release 2, signed, goes to every agent, which checks, calibrates and swaps -> everything written is in the store.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from covey.demo import plan as planning
from covey.demo.report import judge
from covey.errors import ProcessError
from covey.processes import covey_command

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from covey.demo.plan import Device, Plan
    from covey.stack import Stack

PHASE_S = 180.0  # no phase takes longer on two cores; a hang is a failure
FLIGHT_S = 26.0  # length of a flight, simulated or real
TEACHERS = 6  # devices in the round
MIN_TEACHERS = 2
SUMMARY_INTERVAL_S = 2.0


@dataclass
class Progress:
    """What the live view shows; written by the story, read by the view."""

    phase: str = "starting"
    devices: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Options:
    """What the user asked for."""

    devices: int | None
    flying_s: float
    seed: int


class Story:
    """One telling of it."""

    def __init__(self, stack: Stack, options: Options, progress: Progress, stop: threading.Event) -> None:
        self._stack = stack
        self._options = options
        self._progress = progress
        self._stop = stop
        self._kills: list[str] = []

    def tell(self, flights: Path | None) -> dict[str, Any]:
        """Everything, in order; returns the report.

        Raises:
            CoveyError: a part failed; names it.
        """
        stack, stop = self._stack, self._stop
        first, second = stack.folder / "release-1.covey", stack.folder / "release-2.covey"
        with self._phase("flights"):
            plan = self._plan(flights)
            runtimes = self._runtimes(len(plan.devices))
        with self._phase("fit"):
            words = [w for file in plan.fit for w in ("--data", str(plan.folder / file))]
            self._run("fit", "model", "fit", *words, "--family", "pca", "--out", str(first), "--json")
        with self._phase("start"):
            stack.start_core(stop)
            one = stack.add_release(first, "fitted on few healthy flights", stop)
        with self._phase("fly"):
            for device, runtime in zip(plan.devices, runtimes, strict=True):
                stack.start_agent(device.id, self._agent_options(plan, device, runtime, first))
            stack.save()
            self._fly(plan)
            alarms = self._alarms_before_the_round(plan)
        with self._phase("round"):
            learned = self._round(plan, {a["device"] for a in alarms}, first, second)
        with self._phase("release"):
            two = stack.add_release(second, "after one federated round", stop)
            self._wait(lambda: self._all_on(plan, two["number"]), "release 2 on every agent")
        with self._phase("stop agents"):
            self._drain(plan)
        with self._phase("report"):
            return judge(
                plan=plan,
                statuses={d.id: self._status(d) for d in plan.devices},
                fleet=stack.ask("devices", ["cloud", "devices", "--store", stack.store, "--json"], stop),
                alarms=stack.ask(
                    "alarms", ["cloud", "alarms", "--store", stack.store, "--limit", "100000", "--json"], stop
                ),
                counts=stack.ask("counts", ["cloud", "status", "--store", stack.store, "--json"], stop),
                stored=self._export(),
                learned=learned,
                releases=(one["number"], two["number"]),
                kills=self._kills,
                seconds=self._progress.seconds,
            )

    def _plan(self, flights: Path | None) -> Plan:
        folder = flights
        if folder is None:
            folder = self._stack.folder / "flights"
            vehicles = self._options.devices or 5
            damaged = max(1, vehicles * 2 // 5)
            words = ["--vehicles", str(vehicles), "--healthy", "5", "--damaged", str(damaged)]
            self._run("flights", "sim", "flights", "--out", str(folder), *words, "--seed", str(self._options.seed))
        wanted = self._options.devices or (5 if flights is None else None)
        plan = planning.make_plan(folder, planning.read_manifest(folder), wanted)
        self._progress.devices = [{"id": d.id, "fault": d.fault} for d in plan.devices]
        return plan

    def _runtimes(self, n: int) -> list[str]:
        """One agent on tflite-runtime if it is installed, the others in turn on LiteRT and ONNX Runtime."""
        found = self._stack.ask("doctor", ["edge", "doctor", "--json"], self._stop)
        there = [r["runtime"] for r in found["runtimes"] if r["ok"]]
        if not there:
            raise ProcessError("doctor", "no model runtime works here: covey edge doctor says why")
        main = [r for r in ("litert", "onnx") if r in there] or there
        chosen = [main[i % len(main)] for i in range(n)]
        if "tflite" in there and n > len(main):
            chosen[len(main)] = "tflite"
        return chosen

    def _agent_options(self, plan: Plan, device: Device, runtime: str, bundle: Path) -> list[str]:
        speed = FLIGHT_S / self._options.flying_s
        options = ["--bundle", str(bundle), "--runtime", runtime, "--speed", f"{speed:.3f}"]
        options += ["--source", str(plan.folder / device.test.file), "--no-learn"]
        options += [w for f in device.commission_fitted for w in ("--commission-fitted", str(plan.folder / f))]
        options += [w for f in device.commission for w in ("--commission", str(plan.folder / f))]
        return [*options, "--summary-interval-s", str(SUMMARY_INTERVAL_S)]

    def _fly(self, plan: Plan) -> None:
        """Wait until every flight is over; on the way the gateway is killed with -9 and started again."""
        total = len(plan.devices)

        def done() -> bool:
            statuses = [self._status(d) for d in plan.devices]
            self._show(plan, statuses)
            landed = sum(s.get("state") in {"done", "idle"} for s in statuses)
            airborne = sum(bool(s.get("windows")) for s in statuses)
            if not self._kills and airborne * 2 >= total:
                self._progress.note = "gateway killed with SIGKILL, started again"
                self._stack.children.kill("gateway")
                self._kills.append("gateway")
                self._stack.start_gateway()
            return landed == total

        self._wait(done, "the end of all flights")
        if not self._kills:
            self._stack.children.kill("gateway")
            self._kills.append("gateway")
            self._stack.start_gateway()

    def _alarms_before_the_round(self, plan: Plan) -> list[dict[str, Any]]:
        """Alarms in the store, once it has everything that the agents have written so far."""
        marks = {d.id: self._status(d)["outbox"]["last_seq"] for d in plan.devices}

        def stored() -> bool:
            have: dict[str, int] = {}
            for device, _, seq in self._export():
                have[device] = max(have.get(device, 0), seq)
            return all(have.get(device, 0) >= seq for device, seq in marks.items())

        self._wait(stored, "the flights' events in the store", step_s=0.5)
        words = ["cloud", "alarms", "--store", self._stack.store, "--limit", "100000", "--json"]
        alarms: list[dict[str, Any]] = self._stack.ask("alarms", words, self._stop)
        return alarms

    def _round(self, plan: Plan, alarmed: set[str], first: Path, second: Path) -> dict[str, Any]:
        chosen = planning.teachers(plan.devices, alarmed, TEACHERS)
        self._progress.note = f"federated round with {', '.join(d.id for d in chosen)}"
        words = [w for d in chosen for w in ("--ring", f"{d.id}={self._stack.agent_state(d.id) / 'ring.bin'}")]
        words += ["--family", "pca", "--engine", "local", "--rounds", "1", "--min-clients", str(MIN_TEACHERS)]
        words += ["--initial", str(first), "--out", str(second), "--json"]
        answer: dict[str, Any] = json.loads(self._run("train", "federated", "train", *words))
        return {**answer, "teachers": [d.id for d in chosen]}

    def _all_on(self, plan: Plan, release: int) -> bool:
        statuses = [self._status(d) for d in plan.devices]
        self._show(plan, statuses)
        for status in statuses:
            if status.get("update", {}).get("state") == "refused" and status["update"].get("target") == release:
                raise ProcessError(
                    f"agent-{status['device']}", f"refused release {release}: {status['update']['reason']}"
                )
        if any(s.get("release") != release for s in statuses):
            return False
        fleet = self._stack.ask("devices", ["cloud", "devices", "--store", self._stack.store, "--json"], self._stop)
        reported = {row["device"]: row["release"] for row in fleet}
        return all(reported.get(d.id) == release for d in plan.devices)

    def _drain(self, plan: Plan) -> None:
        """Agents end in order, each with its outbox acknowledged to the last row."""

        def empty() -> bool:
            return all(self._status(d)["outbox"]["pending"] <= 2 for d in plan.devices)

        self._wait(empty, "acknowledged outboxes")
        killed = self._stack.children.stop(self._stack.agents, timeout_s=30.0)
        if killed:
            raise ProcessError(killed[0], "did not end in 30 s")
        marks = {d.id: self._status(d)["outbox"]["last_seq"] for d in plan.devices}

        def stored() -> bool:
            have: dict[str, int] = {}
            for device, _, _ in self._export():
                have[device] = have.get(device, 0) + 1
            return all(have.get(device, 0) >= seq for device, seq in marks.items())

        deadline = time.monotonic() + 20.0
        while not stored() and time.monotonic() < deadline and not self._stop.is_set():
            self._stop.wait(0.3)  # what is still missing then is reported as lost, not as a hang

    def _export(self) -> list[tuple[str, str, int]]:
        words = covey_command("cloud", "export", "--store", self._stack.store, "--out", "-")
        lines = self._stack.children.run("export", words, PHASE_S, self._stop).splitlines()
        rows = [json.loads(line) for line in lines]
        return [(r["device"], r["outbox"], r["seq"]) for r in rows]

    def _status(self, device: Device) -> dict[str, Any]:
        try:
            text = (self._stack.agent_state(device.id) / "status.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return {"device": device.id}
        status: dict[str, Any] = json.loads(text)  # written whole, so never half
        return status

    def _show(self, plan: Plan, statuses: list[dict[str, Any]]) -> None:
        self._progress.devices = [
            {
                "id": d.id,
                "fault": d.fault,
                "runtime": s.get("runtime", ""),
                "state": _doing(s),
                "windows": s.get("windows", 0),
                "alarms": sum(f["alarms"] for f in s.get("flights", [])),
                "release": s.get("release", 0),
            }
            for d, s in zip(plan.devices, statuses, strict=True)
        ]

    def _run(self, name: str, *words: str) -> str:
        return self._stack.children.run(name, covey_command(*words), PHASE_S, self._stop)

    def _wait(self, predicate: Callable[[], bool], what: str, step_s: float = 0.2) -> None:
        self._stack.children.wait_until(predicate, PHASE_S, what, self._stop, step_s)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self._progress.phase, self._progress.note = name, ""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._progress.seconds[name] = round(time.monotonic() - begun, 2)


def _doing(status: dict[str, Any]) -> str:
    """What an agent is at: its update when there is one under way, else its flight."""
    update: str = status.get("update", {}).get("state", "idle")
    return update if update != "idle" else status.get("state", "starting")
