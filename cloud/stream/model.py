"""A model of the operator's own that judges alarms: an ONNX file, run over a batch of alarms at once.

Its inputs are named numbers of the alarm and its context (docs/routing.md). A model that cannot be loaded, refuses a batch or
says what is no number has no opinion: alarms go on without it. So they do when it takes too long.
"""

from __future__ import annotations

import hashlib
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud.stream.deadline import Deadline, LateError
from covey.errors import ConfigError, MissingExtra
from covey.wire_alarms import Context, ModelOpinion

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cloud.config import EnrichModel
    from covey import wire

_log = logging.getLogger("cloud.model")

OF_ALARM = ("score", "peak_score", "threshold", "confidence", "windows", "release")
OF_CONTEXT = (
    "peers",
    "peers_alarming",
    "peers_same_channel",
    "lift",
    "alarms_24h",
    "alarms_7d",
    "confirmed_30d",
    "rejected_30d",
    "score_ratio",
    "drift_psi",
    "release_age_s",
)
SHARE = "share."  # share.<channel>: that channel's part in the score


def feature(name: str) -> Callable[[wire.Alarm, Context], float]:
    """How to read a named number.

    Raises:
        ConfigError: no such name.
    """
    if name in OF_ALARM:
        return lambda alarm, _context: float(getattr(alarm, name))
    if name in OF_CONTEXT:
        return lambda _alarm, context: float(getattr(context, name))
    if name == "peers_share":
        return lambda _alarm, context: peers_share(context)
    if name == "sensor":
        return lambda alarm, _context: float(alarm.kind == "sensor")
    if name.startswith(SHARE) and len(name) > len(SHARE):
        channel = name.removeprefix(SHARE)
        return lambda alarm, _context: sum(one.share for one in alarm.attribution if one.channel == channel)
    known = ", ".join((*OF_ALARM, *OF_CONTEXT, "peers_share", "sensor", "share.<channel>"))
    raise ConfigError(f"enrich.model: features: one of {known} expected, {name!r} received")


def peers_share(context: Context) -> float:
    """Share of the peers that alarm; 0 without peers."""
    return context.peers_alarming / context.peers if context.peers else 0.0


class Model:
    """One loaded model."""

    def __init__(self, config: EnrichModel) -> None:
        """Load it.

        Raises:
            ConfigError: a feature is unknown, or the file is no model that takes so many.
            MissingExtra: onnxruntime is not installed.
        """
        self._features = [feature(name) for name in config.features]
        path = Path(config.path)
        try:
            import numpy as np
            import onnxruntime
        except ModuleNotFoundError as error:
            raise MissingExtra("enrich", str(error.name)) from error
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"enrich.model: {path}: {error.strerror}") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library raises its own kinds, which share no base but this
            raise ConfigError(f"enrich.model: {path}: {_line(error)}") from error
        self._np: Any = np
        self._options: Callable[[], Any] = onnxruntime.RunOptions
        self._timeout_s = config.timeout_s
        self._deadline = Deadline("enrich.model")
        self.name = path.stem[:256]
        self.digest = hashlib.sha256(content).hexdigest()
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 2 or inputs[0].shape[1] not in (len(self._features), None):
            shapes = [one.shape for one in inputs]
            raise ConfigError(f"enrich.model: {path}: one input (B, {len(self._features)}) expected, {shapes} found")
        self._input = inputs[0].name

    def judge(self, alarms: Sequence[tuple[wire.Alarm, Context]]) -> list[ModelOpinion | None]:
        """Its first output for each alarm; None where that is no number.

        Raises:
            ModelFailed: it did not take the batch, or took too long over one.
        """
        if not alarms:
            return []
        np = self._np
        rows = np.array([[read(*one) for read in self._features] for one in alarms], dtype=np.float32)  # (B, F)
        options = self._options()

        def end() -> None:
            options.terminate = True  # heard between two nodes, and between two turns of a loop

        try:
            first = self._deadline.call(
                lambda: self._session.run(None, {self._input: rows}, options)[0], self._timeout_s, end
            )
            said = np.asarray(first, dtype=np.float64)
            values = said.reshape(len(alarms), -1)[:, 0]  # (B, K) -> (B,)
        except LateError as error:
            raise ModelFailed(f"enrich.model: {self.name}: {error}") from error
        except Exception as error:  # the library's own kinds, or an output of another shape
            raise ModelFailed(f"enrich.model: {self.name}: {_line(error)}") from error
        return [
            ModelOpinion(self.name, self.digest, float(value)) if math.isfinite(value) else None for value in values
        ]


class ModelFailed(ConfigError):
    """The model did not take a batch; what it is asked for is the operator's choice."""


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
