"""Fewer bytes for weights: float16, int8 with a scale an array, or the largest few as int8; pure NumPy.

What int8 and top-k leave over is added to the next message of the same direction (error feedback), so that over rounds
nothing is lost. Up, the rest is the device's own (federated/memory.py). Down, devices hold a *view* of the weights: each
message brings it nearer to the server's, and what is missing stays in the difference that the next one is made from. A view is
float16 by definition: adding a difference gives the same bits on every machine, and a whole view is two bytes a weight.

Sources: Seide et al., Interspeech 2014 (error feedback); Stich et al., NeurIPS 2018 (top-k with memory); Tang et al., ICML
2019 (both directions).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from covey.errors import AggregationError, DataError
from federated import gate
from federated.gate import Arrays, Shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from federated.config import Plan

LEVELS = 127.0  # int8, symmetric
LOSSY = ("int8", "topk")  # those that need a memory


def kept(size: int, keep: float) -> int:
    """How many of `size` values top-k sends."""
    return max(1, math.ceil(keep * size))


def squeeze(step: Arrays, how: str, keep: float) -> Arrays:
    """Named arrays as they travel.

    Returns:
        `none`, `float16`: the same names. `int8`: `delta` (P,) int8 in the order of the sorted names, `scales` (arrays,)
        float32. `topk`: `mask` bits of P, `delta` (k,) int8, `scales` (1,).
    """
    if how not in LOSSY:
        with np.errstate(over="ignore"):  # told by the gate
            return {
                name: values.astype(np.float16 if how == "float16" else np.float32) for name, values in step.items()
            }
    names = sorted(step)
    parts = [step[name].astype(np.float64).ravel() for name in names]
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite gives a scale that is not: told by the gate
        if how == "int8":
            scales = np.array([np.abs(part).max(initial=0.0) for part in parts], np.float32)
            delta = np.concatenate([_levels(part, float(scale)) for part, scale in zip(parts, scales, strict=True)])
            return {"delta": delta, "scales": scales}
        values = np.concatenate(parts)
        largest = np.argsort(-np.abs(values), kind="stable")[: kept(values.size, keep)]
        mask = np.zeros(values.size, np.bool_)
        mask[largest] = True
        # One that is not finite may not be among the largest: it is told by the gate all the same.
        scale = np.float32(np.abs(values[mask]).max() if np.isfinite(values).all() else np.nan)
        return {
            "mask": np.packbits(mask),
            "delta": _levels(values[mask], float(scale)),
            "scales": np.array([scale], np.float32),
        }


def _levels(values: NDArray[np.float64], scale: float) -> NDArray[np.int8]:
    if not (math.isfinite(scale) and scale > 0):
        return np.zeros(values.size, np.int8)
    levels: NDArray[np.int8] = np.rint(values * (LEVELS / scale)).clip(-LEVELS, LEVELS).astype(np.int8)
    return levels


def wire_shapes(shapes: Mapping[str, Shape], how: str, keep: float) -> dict[str, Shape]:
    """What `squeeze` makes of arrays of these shapes."""
    if how not in LOSSY:
        return dict(shapes)
    size = sum(math.prod(shape.shape) for shape in shapes.values())
    if how == "int8":
        return {"delta": Shape((size,), "i"), "scales": Shape((len(shapes),))}
    return {
        "mask": Shape(((size + 7) // 8,), "u"),
        "delta": Shape((kept(size, keep),), "i"),
        "scales": Shape((1,)),
    }


def unsqueeze(wire: Arrays, shapes: Mapping[str, Shape], how: str, keep: float) -> Arrays:
    """The inverse of `squeeze`, float32, after the gate's look at what travelled.

    Raises:
        AggregationError: it is not what `squeeze` makes.
    """
    told = gate.fault(wire, wire_shapes(shapes, how, keep))
    if told is not None:
        raise AggregationError(told)
    if how not in LOSSY:
        return {name: values.astype(np.float32) for name, values in wire.items()}
    names = sorted(shapes)
    sizes = [math.prod(shapes[name].shape) for name in names]
    steps = wire["scales"].astype(np.float64) / LEVELS
    if how == "int8":
        values = wire["delta"].astype(np.float64) * np.repeat(steps, sizes)
    else:
        mask = np.unpackbits(wire["mask"].astype(np.uint8), count=sum(sizes)).astype(np.bool_)
        if int(mask.sum()) != wire["delta"].size:
            raise AggregationError(f"mask: {wire['delta'].size} bits expected, {int(mask.sum())} came")
        values = np.zeros(mask.size)
        values[mask] = wire["delta"] * steps[0]
    return _cut(values.astype(np.float32), shapes)


def _cut(values: NDArray[np.float32], shapes: Mapping[str, Shape]) -> Arrays:
    arrays: Arrays = {}
    start = 0
    for name in sorted(shapes):
        size = math.prod(shapes[name].shape)
        arrays[name] = values[start : start + size].reshape(shapes[name].shape)
        start += size
    return arrays


def shapes_of(arrays: Arrays) -> dict[str, Shape]:
    """Shapes of weights."""
    return {name: Shape(values.shape) for name, values in arrays.items()}


def rest_before(memory: Arrays, number: int, run: int) -> NDArray[np.float32] | None:
    """What the device's last update of this run before round `number` left over, (P,).

    Two are kept: a round that is asked again (a resumed run) starts from the one before it.
    """
    found = [slot for slot in ("a", "b") if f"rest.{slot}" in memory and int(memory["run"][0]) == run]
    found = [slot for slot in found if int(memory[f"round.{slot}"][0]) < number]
    if not found:
        return None
    newest = max(found, key=lambda slot: int(memory[f"round.{slot}"][0]))
    rest: NDArray[np.float32] = memory[f"rest.{newest}"]
    return rest


def packed(plan: Plan, update: Arrays, memory: Arrays, number: int, run: int) -> tuple[Arrays, Arrays]:
    """A device's update as it travels, and what the device remembers then.

    Args:
        plan: how.
        update: change of the weights.
        memory: what the device remembers.
        number: of the round.
        run: token of the run: another run's rests are not this one's.
    """
    if plan.compress not in LOSSY:
        return squeeze(update, plan.compress, plan.keep), memory
    shapes = shapes_of(update)
    rest = rest_before(memory, number, run)
    total = dict(update)
    if rest is not None and rest.size == sum(values.size for values in update.values()):
        left = _cut(rest, shapes)
        total = {name: values.astype(np.float64) + left[name] for name, values in update.items()}
    wire = squeeze(total, plan.compress, plan.keep)
    if not np.isfinite(wire["scales"]).all():
        raise DataError("update: finite numbers expected, others came out of training")
    sent = unsqueeze(wire, shapes, plan.compress, plan.keep)
    over = np.concatenate([(total[name] - sent[name]).ravel() for name in sorted(total)]).astype(np.float32)
    kept_memory = {name: values for name, values in memory.items() if name.startswith("view")}
    kept_memory |= {"rest.a": over, "round.a": np.array([number]), "run": np.array([run])}
    if rest is not None:
        kept_memory |= {"rest.b": rest, "round.b": np.array([number - 1])}
    return wire, kept_memory
