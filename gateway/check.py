"""`covey gateway check`: can a gateway run with this configuration, between these brokers? Both sides at the same time.

Consumes and creates nothing and leaves a running gateway alone; ends within `_WHOLE_S`, whatever is at the other ends.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from gateway.check_kafka import check_kafka
from gateway.check_mqtt import check_mqtt
from gateway.probe import Finding
from gateway.receiver import contract_problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config import GatewayConfig

_WHOLE_S = 45.0  # a name look-up is bounded by the machine's resolver only, some brokers' steps add up


def check(config: GatewayConfig, timeout_s: float = _WHOLE_S) -> list[Finding]:
    """Every line of the check, in the order to read them.

    Args:
        config: as `load_config` gave it, so its values and files are right already.
        timeout_s: after it, a side that has not ended is told as failed.
    """
    problem = contract_problem()
    found = [Finding("config", "warn", told) for told in config.warnings()] or [
        Finding("config", "ok", "values and files are right")
    ]
    if problem:
        fix = "install the paho-mqtt version of constraints.txt"
        found.append(Finding("receiver", "warn", f"one by one, slow ({problem})", fix))
    else:
        found.append(Finding("receiver", "ok", "in batches"))
    sides = [_Side("mqtt", check_mqtt, config), _Side("kafka", check_kafka, config)]
    for side in sides:
        side.join(timeout_s)
        found += side.result()
    return found


class _Side(threading.Thread):
    """One half on a thread of its own: they wait for different brokers."""

    def __init__(self, name: str, ask: Callable[[GatewayConfig], list[Finding]], config: GatewayConfig) -> None:
        super().__init__(name=f"check-{name}", daemon=True)
        self._ask, self._config = ask, config
        self._found: list[Finding] | None = None
        self._raised: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._found = self._ask(self._config)
        except BaseException as error:  # noqa: BLE001  # raised again by `result` on the caller's thread
            self._raised = error

    def result(self) -> list[Finding]:
        if self._raised is not None:
            raise self._raised
        if self._found is None:
            side = self.name.removeprefix("check-")
            return [Finding(side, "FAIL", "no end in time", "does the name resolve? try its address")]
        return self._found
