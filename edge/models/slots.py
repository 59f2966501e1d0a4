"""Two slots for models on disk: one is active, the spare one takes the next release; a crash leaves the active one usable.

`<folder>/{a,b}/` holds `bundle.zip`, the calibration `<digest>.json` and, written last, `slot.json`, without which a slot
is empty. `<folder>/slots.json` says which one is active; it is replaced whole, and that is the swap. Bundle and calibration
lie in one slot, so that they are swapped and rolled back together, also when both slots hold the same weights.

It refuses to judge a model: who puts a bundle here has verified and checked it. One writer: the agent. Loads no runtime.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from covey.bundle import Bundle, Calibration, read_bundle, read_calibration, write_calibration
from covey.errors import BundleError, UpdateError
from covey.runtime import write_whole

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger("edge.slots")

SlotName = Literal["a", "b"]
_NAMES: tuple[SlotName, SlotName] = ("a", "b")
_OTHER: dict[SlotName, SlotName] = {"a": "b", "b": "a"}
_PRIVATE = 0o600
_MAX_REFUSED = 16
_MAX_REASON = 256


class _SlotFile(Struct, frozen=True, forbid_unknown_fields=True):
    """slot.json."""

    release: Annotated[int, Meta(ge=1)]
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    calibrated: bool


class Refused(Struct, frozen=True, forbid_unknown_fields=True):
    """A release that this device went back from; it is not to be tried again."""

    release: int
    digest: str
    reason: str


class _SlotsFile(Struct, frozen=True, forbid_unknown_fields=True):
    """slots.json."""

    active: SlotName | None = None
    previous: SlotName | None = None  # where go_back goes; None after a put took that slot, and after going back
    refused: list[Refused] = []


@dataclass(frozen=True)
class Slot:
    """A bundle on disk with its calibration, read and whole."""

    name: SlotName
    release: int
    bundle: Bundle
    calibration: Calibration | None


class Slots:
    """The slots of one device.

    Attributes:
        problems: one line for each slot that was found damaged.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder, made if need be (0700), and load the active slot.

        Where the active slot is damaged, the other one is used if it is whole.

        Raises:
            UpdateError: the folder cannot be made or read.
        """
        self._folder = folder
        self.problems: list[str] = []
        try:
            for part in (folder, *(folder / name for name in _NAMES)):
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
                for left in part.glob(".*"):  # write_whole's, of a process that was killed
                    left.unlink()
            self._state = self._read_state()
            self._active = self._load_active()
        except OSError as error:
            raise _told(folder, error) from error

    @property
    def active(self) -> Slot | None:
        """What is to run; None when no release was ever activated, or no slot is whole."""
        return self._active

    @property
    def previous(self) -> SlotName | None:
        """Slot that `go_back` would go to."""
        return self._state.previous

    @property
    def refused(self) -> tuple[Refused, ...]:
        """Releases this device went back from, oldest first; at most 16."""
        return tuple(self._state.refused)

    @property
    def spare_name(self) -> SlotName:
        """The slot that the next `put` takes."""
        return _OTHER[self._active.name] if self._active is not None else "a"

    def put(self, bundle_path: Path, release: int, calibration: Calibration | None) -> Slot:
        """Copy a verified bundle into the spare slot; it is not active yet.

        What was in the spare slot is gone then: until the next `activate` there is nothing to go back to.

        Raises:
            BundleError: the bundle is damaged, or the calibration is another bundle's.
            UpdateError: the slot cannot be written (disk full, permissions).
        """
        bundle = read_bundle(bundle_path)
        if calibration is not None and calibration.bundle != bundle.digest:
            raise BundleError(
                f"{bundle_path}: a calibration of bundle {bundle.digest[:12]} expected, one of {calibration.bundle[:12]} came"
            )
        name = self.spare_name
        folder = self._folder / name
        try:
            if self._state.previous is not None:
                self._write_state(msgspec.structs.replace(self._state, previous=None))
            for old in (folder / "slot.json", *folder.glob("*")):  # slot.json first: from here on the slot is empty
                old.unlink(missing_ok=True)
            write_whole(folder / "bundle.zip", bundle_path.read_bytes(), _PRIVATE)
            if calibration is not None:
                write_calibration(folder, calibration)
            about = _SlotFile(release, bundle.digest, calibration is not None)
            write_whole(folder / "slot.json", msgspec.json.encode(about), _PRIVATE)
        except OSError as error:
            raise _told(folder, error) from error
        slot = self._load(name)
        if slot is None:
            raise UpdateError(f"{folder}: the slot just written expected, nothing found")
        return slot

    def activate(self, name: SlotName) -> Slot:
        """Make a slot the active one; the one active until now becomes the previous one.

        Raises:
            UpdateError: the slot is empty.
            BundleError: it is damaged.
        """
        slot = self._load(name)
        if slot is None:
            raise UpdateError(f"{self._folder / name}: a release expected, the slot is empty")
        if self._active is not None and self._active.name == name:
            return self._active
        previous = self._active.name if self._active is not None else None
        self._write_state(_SlotsFile(name, previous, self._state.refused))
        self._active = slot
        return slot

    def go_back(self, reason: str) -> Slot | None:
        """Return to the previous slot and remember the active release as refused.

        Returns:
            The slot that is active now; None, and nothing changed, when there is none to go back to.
        """
        active, previous = self._active, self._state.previous
        if active is None or previous is None:
            return None
        try:
            slot = self._load(previous)
        except BundleError as error:
            self._tell(str(error))
            return None
        if slot is None:
            return None
        bad = Refused(active.release, active.bundle.digest, " ".join(reason.split())[:_MAX_REASON])
        self._write_state(_SlotsFile(previous, None, [*self._state.refused, bad][-_MAX_REFUSED:]))
        self._active = slot
        _log.warning("slot %s, release %d: gone back to, %s", slot.name, slot.release, bad.reason)
        return slot

    def calibrate(self, calibration: Calibration) -> Slot:
        """Give the active slot a calibration, in place of the one it has.

        Raises:
            UpdateError: nothing is active, or the slot cannot be written.
            BundleError: the calibration is another bundle's.
        """
        active = self._active
        if active is None:
            raise UpdateError(f"{self._folder}: an active slot to calibrate expected, there is none")
        if calibration.bundle != active.bundle.digest:
            raise BundleError(
                f"slot {active.name}: a calibration of bundle {active.bundle.digest[:12]} expected, "
                f"one of {calibration.bundle[:12]} came"
            )
        folder = self._folder / active.name
        try:
            write_calibration(folder, calibration)
            about = _SlotFile(active.release, active.bundle.digest, calibrated=True)
            write_whole(folder / "slot.json", msgspec.json.encode(about), _PRIVATE)
        except OSError as error:
            raise _told(folder, error) from error
        self._active = replace(active, calibration=calibration)
        return self._active

    def _load(self, name: SlotName) -> Slot | None:
        """A slot from disk; None when it is empty.

        Raises:
            BundleError: it is damaged.
        """
        folder = self._folder / name
        try:
            about = msgspec.json.decode((folder / "slot.json").read_bytes(), type=_SlotFile)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BundleError(f"{folder / 'slot.json'}: cannot be read: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BundleError(f"{folder / 'slot.json'}: damaged: {error}") from error
        bundle = read_bundle(folder / "bundle.zip", about.digest)
        calibration: Calibration | None = None
        if about.calibrated:
            try:
                calibration = read_calibration(folder, bundle.manifest, bundle.digest)
            except OSError as error:
                raise BundleError(f"{folder}: the calibration cannot be read: {error.strerror}") from error
            if calibration is None:
                raise BundleError(f"{folder}: a calibration of bundle {bundle.digest[:12]} expected, not there")
        return Slot(name, about.release, bundle, calibration)

    def _load_active(self) -> Slot | None:
        wanted = self._state.active
        if wanted is None:
            return None
        for name in (wanted, _OTHER[wanted]):
            try:
                slot = self._load(name)
            except BundleError as error:
                self._tell(str(error))
                continue
            if slot is None:
                if name == wanted:
                    self._tell(f"{self._folder / name}: the active release expected, the slot is empty")
                continue
            if name != wanted:
                self._tell(f"slot {wanted} is damaged: slot {name}, release {slot.release}, is used")
                self._write_state(_SlotsFile(name, None, self._state.refused))
            return slot
        return None

    def _read_state(self) -> _SlotsFile:
        path = self._folder / "slots.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=_SlotsFile)
        except FileNotFoundError:
            return _SlotsFile()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._tell(f"{path}: damaged: {error}: the older whole slot is used")
        whole: list[Slot] = []
        for name in _NAMES:
            try:
                slot = self._load(name)
            except BundleError as error:
                self._tell(str(error))
                continue
            whole += [slot] if slot is not None else []
        # The newer one may never have been active, or may be what this device went back from.
        oldest = min(whole, key=lambda slot: slot.release, default=None)
        return _SlotsFile(oldest.name if oldest is not None else None)

    def _write_state(self, state: _SlotsFile) -> None:
        path = self._folder / "slots.json"
        try:
            write_whole(path, msgspec.json.encode(state), _PRIVATE)
        except OSError as error:
            raise _told(path, error) from error
        self._state = state

    def _tell(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)
            _log.warning("%s", problem)


def _told(path: Path, error: OSError) -> UpdateError:
    return UpdateError(f"{path}: cannot be read or written: {error.strerror or os.strerror(error.errno or 0)}")
