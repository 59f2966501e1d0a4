"""Corrupt bundles of every runtime: each is refused with one line, nothing ends but the child that tried it, the old model works on."""

import json
import random
import threading
from collections import Counter

import pytest

from cloud.learn.releases import Repository
from cloud.learn.serve import Server
from covey import wire
from covey.bundle import read_bundle
from covey.errors import BundleError, CoveyError
from edge.models.check import check_in_subprocess
from edge.scoring.runtimes import available
from edge_bundles import make_bundle, write_flight
from edge_cloud import Cloud, start_agent, wait_status
from harm.bundles import corrupt
from harm.images import LONG
from servers import unique, wait_for

EACH = 350 if LONG else 20  # of each runtime
RELEASES = 12 if LONG else 4


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two right bundles of the same shape."""
    folder = tmp_path_factory.mktemp("bundles")
    make_bundle(folder / "good.covey")
    make_bundle(folder / "other.covey", gain=3.0)
    return (folder / "good.covey").read_bytes(), (folder / "other.covey").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(1800 if LONG else 120)
@pytest.mark.parametrize("runtime", ["onnx", "litert", "tflite"])
def test_a_corrupt_bundle_is_refused_with_one_line_or_does_what_it_promises(tmp_path, pair, runtime):
    if runtime not in available():
        pytest.skip(f"{runtime}: not installed")
    rng = random.Random(f"corrupt {runtime}")
    seen: Counter[str] = Counter()
    for n in range(EACH):
        what, content = corrupt(*pair, runtime, rng)
        path = tmp_path / "b.covey"
        path.write_bytes(content)
        try:
            bundle = read_bundle(path)
        except BundleError as error:
            assert_one_line(error)
            seen["unreadable"] += 1
            continue
        assert what.partition(" ")[0] in ("flip", "model", "golden", "manifest"), f"{n}: {what} was read"
        try:
            worst = check_in_subprocess(path, runtime, 20.0)
        except CoveyError as error:
            assert_one_line(error)
            seen["refused"] += 1
        else:
            # A flipped bit may lie where it changes no output by more than the tolerance: then the model is right.
            assert 0 <= worst <= 1
            assert what.startswith(("model", "flip")), f"{n}: {what} passed"
            assert bundle.files != read_whole(pair[0]).files, f"{n}: {what} changed nothing"
            seen["harmless"] += 1
    assert seen["unreadable"] >= EACH // 5
    assert seen["refused"] >= EACH // 5
    assert sum(seen.values()) == EACH
    assert [path.name for path in tmp_path.iterdir()] == ["b.covey"]


def read_whole(content):
    from covey.bundle import unpack

    return unpack(content, "good")


def assert_one_line(error):
    text = str(error)
    assert text
    assert "\n" not in text, text
    assert len(text) < 2000
    assert "Traceback" not in text


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(600 if LONG else 120)
@pytest.mark.parametrize("runtime", ["tflite", "litert", "onnx"] if LONG else ["tflite"])
def test_signed_releases_that_are_corrupt_are_refused_and_the_old_model_goes_on_scoring(
    tmp_path, pair, mosquitto, runtime
):
    if runtime not in available():
        pytest.skip(f"{runtime}: not installed")
    repository = Repository(tmp_path / "repository")
    repository.create()
    server = Server("127.0.0.1", 0, repository.public_dir, 8)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    device = unique("d")
    (tmp_path / "one.covey").write_bytes(pair[0])
    repository.add_release(pair[0], "default")
    (tmp_path / "root.json").write_bytes((repository.public_dir / "metadata" / "1.root.json").read_bytes())
    calm = write_flight(tmp_path / "calm.csv", 400, 1)
    long = write_flight(tmp_path / "long.csv", 40_000, 5)
    (tmp_path / "agent.toml").write_text("repeat = true\nflush_s = 1\n")
    rng = random.Random(f"signed {runtime}")
    bad = [content for _, content in candidates(pair, runtime, rng)]
    try:
        with Cloud(mosquitto.port) as cloud:
            agent = start_agent(
                tmp_path, mosquitto.port, device, "--bundle", str(tmp_path / "one.covey"), "--commission", str(calm),
                "--trusted-root", str(tmp_path / "root.json"), "--config", str(tmp_path / "agent.toml"),
                "--source", str(long), "--speed", "200", "--runtime", runtime, "--summary-interval-s", "0.3",
            )  # fmt: skip
            wait_status(tmp_path, device, connected=True)
            for content in bad:
                release = repository.add_release(content, "default")
                before = json.loads((tmp_path / device / "status.json").read_text())["windows"]
                desired = wire.Desired(
                    device, release.number, "default", release.number, release.target, release.digest,
                    release.size_bytes, f"http://127.0.0.1:{server.port}",
                )  # fmt: skip
                cloud.tell(device, "desired", desired, retain=True)

                def refused(number=release.number, before=before):
                    status = json.loads((tmp_path / device / "status.json").read_text())
                    update = status["update"]
                    told = update["state"] == "refused" and update["target"] == number
                    return update["reason"] if told and status["windows"] > before else None

                reason = wait_for(refused, 60, f"release {release.number} refused, the old model scoring")
                assert "\n" not in reason
            status = wait_status(tmp_path, device, pid=agent.pid)
            assert (status["release"], status["runtime"]) == (1, runtime)
            agent.stop()
            assert agent.wait(20) == 0
        assert "Traceback" not in (tmp_path / "agent.log").read_text()
    finally:
        server.shutdown()
        server.server_close()


def candidates(pair, runtime, rng):
    """Corrupt bundles that are refused for sure; among them a model cut short, which ends a process of tflite-runtime."""
    from harm.bundles import repack

    bundle = read_whole(pair[0])
    import msgspec

    manifest = msgspec.json.decode(msgspec.json.encode(bundle.manifest))
    name = "model.onnx" if runtime == "onnx" else "model.tflite"
    model = bundle.files[name]
    out = [
        (f"cut at {n} of 7", repack(manifest, dict(bundle.files) | {name: model[: len(model) * n // 7]}))
        for n in (6, 3)
    ]
    while len(out) < RELEASES:
        what, content = corrupt(*pair, runtime, rng)
        if what.startswith(("truncate", "insert", "zip", "golden", "manifest")):
            out.append((what, content))
    return out
