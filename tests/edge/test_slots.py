"""Slots on a real disk: what is active after every crash, after damage, after going back."""

import os
import shutil
import stat
import subprocess
import sys
import textwrap
from contextlib import suppress

import pytest

from covey.bundle import Calibration
from covey.errors import BundleError, UpdateError
from edge.models.slots import Slots
from model_bundles import contents, make_bundle


@pytest.fixture
def bundles(tmp_path):
    """Three bundles with different weights: path and digest of each."""
    paths = [tmp_path / f"{n}.covey" for n in (1, 2, 3)]
    return [(path, make_bundle(path, weight=weight)) for path, weight in zip(paths, (1.0, 0.9, 0.8), strict=True)]


def calibration(digest, windows=20):
    defaults = contents()[0].defaults
    return Calibration(
        format="covey-calibration/1",
        bundle=digest,
        made="2026-01-01T00:00:00.000Z",
        windows=windows,
        flights=1,
        center=defaults.center,
        scale=defaults.scale,
        spread=defaults.spread,
        thresholds=defaults.thresholds,
        reference=defaults.reference,
    )


def flown(folder, bundles, releases=2):
    """Slots through which the first releases went, each calibrated by its own number."""
    slots = Slots(folder)
    for release in range(1, releases + 1):
        path, digest = bundles[release - 1]
        slots.activate(slots.put(path, release, calibration(digest, 20 + release)).name)
    return slots


def test_nothing_is_active_before_the_first_release(tmp_path):
    slots = Slots(tmp_path / "slots")
    assert slots.active is None
    assert slots.spare_name == "a"
    assert slots.go_back("worse") is None


def test_what_is_put_is_active_only_when_activated_and_after_a_restart(tmp_path, bundles):
    (path, digest), _, _ = bundles
    slots = Slots(tmp_path / "slots")
    put = slots.put(path, 1, None)
    assert slots.active is None
    assert Slots(tmp_path / "slots").active is None
    slots.activate(put.name)
    again = Slots(tmp_path / "slots").active
    assert (again.name, again.release, again.bundle.digest, again.calibration) == ("a", 1, digest, None)


def test_a_new_release_takes_the_spare_slot_and_leaves_the_active_one(tmp_path, bundles):
    slots = flown(tmp_path / "slots", bundles, 1)
    put = slots.put(bundles[1][0], 2, calibration(bundles[1][1]))
    assert (put.name, slots.active.name, slots.active.release) == ("b", "a", 1)
    slots.activate("b")
    assert (slots.active.release, slots.previous, slots.spare_name) == (2, "a", "a")


def test_going_back_brings_bundle_and_calibration_and_remembers_what_was_refused(tmp_path, bundles):
    slots = flown(tmp_path / "slots", bundles)
    back = slots.go_back("alarms rose\nfrom 1 % to 40 %")
    assert (back.release, back.bundle.digest, back.calibration.windows) == (1, bundles[0][1], 21)
    again = Slots(tmp_path / "slots")
    assert again.active.release == 1
    assert [(r.release, r.digest, r.reason) for r in again.refused] == [
        (2, bundles[1][1], "alarms rose from 1 % to 40 %")
    ]
    assert again.go_back("again") is None
    assert again.active.release == 1


def test_going_back_twice_does_not_return_to_the_bad_one_after_a_put(tmp_path, bundles):
    slots = flown(tmp_path / "slots", bundles)
    slots.put(bundles[2][0], 3, None)
    assert slots.go_back("worse") is None
    assert slots.active.release == 2


def test_the_same_weights_in_both_slots_keep_their_own_calibrations(tmp_path, bundles):
    """Taking a fleet back is a new number with old weights: the digest is the same in both slots."""
    path, digest = bundles[0]
    slots = Slots(tmp_path / "slots")
    slots.activate(slots.put(path, 1, calibration(digest, 21)).name)
    slots.activate(slots.put(path, 2, calibration(digest, 99)).name)
    assert slots.active.calibration.windows == 99
    assert slots.go_back("worse").calibration.windows == 21


def test_the_active_slot_can_be_calibrated_later(tmp_path, bundles):
    path, digest = bundles[0]
    slots = Slots(tmp_path / "slots")
    slots.activate(slots.put(path, 1, None).name)
    assert slots.calibrate(calibration(digest, 33)).calibration.windows == 33
    assert Slots(tmp_path / "slots").active.calibration.windows == 33
    with pytest.raises(BundleError, match=f"one of {bundles[1][1][:12]} came"):
        slots.calibrate(calibration(bundles[1][1]))


@pytest.mark.parametrize("damage", ["bundle.zip", "slot.json", "calibration"])
@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_a_damaged_active_slot_is_told_in_a_line_and_the_other_one_used(tmp_path, bundles, damage, how):
    flown(tmp_path / "slots", bundles)
    path = tmp_path / "slots" / "b" / (f"{bundles[1][1]}.json" if damage == "calibration" else damage)
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + (b"\x00" + content[middle + 1 :] if how == "flip" else b""))
    slots = Slots(tmp_path / "slots")
    assert (slots.active.release, slots.active.calibration.windows) == (1, 21)
    assert slots.problems
    assert not any("\n" in problem for problem in slots.problems)
    assert slots.spare_name == "b"
    slots.activate(slots.put(bundles[2][0], 3, None).name)
    assert Slots(tmp_path / "slots").active.release == 3


def test_another_whole_bundle_in_a_slots_place_is_refused(tmp_path, bundles):
    flown(tmp_path / "slots", bundles)
    shutil.copyfile(bundles[2][0], tmp_path / "slots" / "b" / "bundle.zip")
    slots = Slots(tmp_path / "slots")
    assert slots.active.release == 1
    assert f"digest {bundles[1][1][:12]}... expected" in slots.problems[0]


def test_with_both_slots_damaged_nothing_is_active_and_a_put_heals(tmp_path, bundles):
    flown(tmp_path / "slots", bundles)
    for name in "ab":
        (tmp_path / "slots" / name / "bundle.zip").write_bytes(b"PK")
    slots = Slots(tmp_path / "slots")
    assert slots.active is None
    slots.activate(slots.put(bundles[2][0], 3, None).name)
    assert Slots(tmp_path / "slots").active.release == 3


def test_with_slots_json_damaged_the_older_whole_slot_is_used(tmp_path, bundles):
    flown(tmp_path / "slots", bundles)
    (tmp_path / "slots" / "slots.json").write_bytes(b'{"active": "c"}')
    slots = Slots(tmp_path / "slots")
    assert slots.active.release == 1
    assert "slots.json" in slots.problems[0]


def test_a_calibration_of_another_bundle_is_refused_and_the_slots_stay(tmp_path, bundles):
    slots = flown(tmp_path / "slots", bundles)
    with pytest.raises(BundleError, match="a calibration of bundle"):
        slots.put(bundles[2][0], 3, calibration(bundles[0][1]))
    assert slots.go_back("worse").release == 1


def test_an_empty_slot_cannot_be_activated(tmp_path):
    with pytest.raises(UpdateError, match="the slot is empty"):
        Slots(tmp_path / "slots").activate("b")


def test_everything_is_private(tmp_path, bundles):
    flown(tmp_path / "slots", bundles)
    for path in [tmp_path / "slots", *(tmp_path / "slots").rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


# Kills itself with SIGKILL just before its n-th operation on a file; every state of the disk between two operations is
# met once. The audit events are the interpreter's own: open, os.rename, os.remove, os.mkdir, ...
KILLED = """
import os, signal, sys
from pathlib import Path
import shutil

def work(folder, bundle):
    from edge.models.slots import Slots
    slots = Slots(folder)
    slots.activate(slots.put(bundle, 3, None).name)

template, bundle, out = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
import edge.models.slots
edge.models.slots.Slots(template)  # everything is imported now
for n in range(1, 200):
    folder = out / str(n)
    shutil.copytree(template, folder, symlinks=True)
    child = os.fork()
    if child == 0:
        count = 0
        def watch(event, args):
            global count
            if event.startswith(("open", "os.", "tempfile.", "shutil.")):
                count += 1
                if count == n:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(watch)
        work(folder, bundle)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        sys.exit(0 if os.WEXITSTATUS(status) == 0 else 9)
sys.exit(8)
"""


def test_a_kill_at_any_step_leaves_a_usable_active_slot(tmp_path, bundles):
    flown(tmp_path / "slots", bundles)
    command = [sys.executable, "-c", textwrap.dedent(KILLED)]
    out = tmp_path / "killed"
    out.mkdir()
    done = subprocess.run(
        [*command, tmp_path / "slots", bundles[2][0], out],
        capture_output=True,
        timeout=100,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr.decode()
    states = sorted(out.iterdir(), key=lambda path: int(path.name))
    assert len(states) > 15
    seen = []
    for folder in states:
        slots = Slots(folder)
        assert slots.problems == []
        seen.append(slots.active.release)
        assert slots.active.bundle.digest == bundles[slots.active.release - 1][1]
        copy = shutil.copytree(folder, tmp_path / "spare" / folder.name)
        with suppress(UpdateError):  # empty; never half of one release and half of another
            assert Slots(copy).activate(slots.spare_name).release in {2: {1, 3}, 3: {2}}[seen[-1]]
        back = slots.go_back("worse")  # whether or not there is something to go back to
        assert slots.active.release == (back.release if back else seen[-1])
        slots.activate(slots.put(bundles[2][0], 4, None).name)  # nothing left behind is in the way
        again = Slots(folder)
        assert again.active.release == 4
        assert not list(folder.rglob(".*"))
    assert seen == sorted(seen)
    assert set(seen) == {2, 3}
