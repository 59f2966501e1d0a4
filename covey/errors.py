"""The one tree of errors: what a user or an operator can be told in one line.

Anything that is not a CoveyError is a fault of ours and keeps its traceback.

    CoveyError                 exit 1
    |-- UsageError             exit 2: wrong options, missing files
    |   |-- ConfigError        exit 2: a configuration key or value
    |   |-- UnknownName        exit 2: nothing is known by the name given
    |   |-- NameTaken          exit 2: what was to be made is there already
    |   `-- MissingExtra       exit 2: the role's libraries are not installed
    |-- DataError              a data file (log, CSV, NPZ, ring) cannot be used
    |-- BundleError            a bundle is malformed or does not do what it promises
    |   |-- DigestMismatch
    |   `-- GoldenMismatch
    |-- WireError              a message does not follow docs/protocol.md; carries `reason`
    |-- LinkError              MQTT or Kafka API: cannot connect, refused
    |-- UpdateError            a release cannot be fetched or verified
    |-- AggregationError       a federated round cannot be closed
    |-- StoreError             the store refuses or is out of reach
    `-- ProcessError           a process that we started failed; carries the end of its log

A message says what was expected, what came, and which file, device or key: lower case, one line.
"""

from __future__ import annotations


class CoveyError(Exception):
    """Root of every error that is told in one line."""

    exit_code = 1


class UsageError(CoveyError):
    """The command cannot be done as given."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file, variable or option is wrong; the message names every bad key."""


class UnknownName(UsageError):  # states a fact
    """A device, alarm, account or release that nobody knows by this name."""


class NameTaken(UsageError):  # states a fact
    """What was to be made is there already."""


class MissingExtra(UsageError):  # states a fact
    """A role's libraries are not installed."""

    def __init__(self, extra: str, module: str) -> None:
        super().__init__(f"{module} is not installed: pip install 'covey[{extra}]'")
        self.extra = extra
        self.module = module


class DataError(CoveyError):
    """A data file cannot be read or does not hold what was asked of it."""


class BundleError(CoveyError):
    """A bundle is malformed, or its model does not reproduce its golden outputs."""


class DigestMismatch(BundleError):
    """A file is not the one that was promised."""

    def __init__(self, what: str, expected: str, received: str) -> None:
        super().__init__(f"{what}: digest {expected[:12]}... expected, {received[:12]}... received")
        self.what = what
        self.expected = expected
        self.received = received


class GoldenMismatch(BundleError):
    """A model loads but computes something else than its bundle promises."""


class WireError(CoveyError):
    """A message does not follow docs/protocol.md.

    Attributes:
        reason: one of the short words of the dead letter table (`not_json`, `unknown_type`, ...).
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class LinkError(CoveyError):
    """A broker cannot be reached or refuses us."""


class UpdateError(CoveyError):
    """A release cannot be fetched, verified, checked or installed."""


class AggregationError(CoveyError):
    """A federated round cannot be closed: too few, or none that can be trusted."""


class StoreError(CoveyError):
    """The store cannot be opened, or refuses."""


class ProcessError(CoveyError):
    """A process that we started failed."""

    def __init__(self, name: str, detail: str, log_tail: str = "") -> None:
        super().__init__(f"{name}: {detail}" + (f"\n--- end of its log ---\n{log_tail}" if log_tail else ""))
        self.name = name
        self.log_tail = log_tail
