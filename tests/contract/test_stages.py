"""All stages in one process on the embedded broker: an alarm on its way to a webhook, and what the process tells of itself."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from cloud.service import Part, supervise
from cloud_events import OUTBOX, alarm, body, cloud_process
from covey import topics
from covey.wire_alarms import ROUTED_TYPE
from processes import free_port, wait_for
from servers import Tansu
from stages_rig import RULES, Hook

if TYPE_CHECKING:
    from pathlib import Path


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


@pytest.mark.broker
def test_an_alarm_reaches_its_webhook_and_the_stages_tell_of_themselves(tmp_path: Path) -> None:
    hook, port = Hook(), free_port()
    (tmp_path / "rules.toml").write_text(RULES.format(port=hook.port))
    with Tansu(tmp_path / "tansu") as broker:
        broker.create_topics(topics.KAFKA_TOPICS, 3)
        options = ["--kafka", broker.bootstrap, "--kafka-kind", "embedded", "--broker-instance", "one"]
        options += ["--store", str(tmp_path / "store.db"), "--repository-dir", str(tmp_path / "repo")]
        options += ["--rules", str(tmp_path / "rules.toml"), "--health-port", str(port)]
        process = cloud_process(tmp_path, "cloud", "run", *options).start()
        try:
            wait_for(lambda: get(port, "/readyz")[0] == 200, 30, "every stage reads")
            producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": False})
            producer.produce(topics.ALARMS, body(1, alarm()), "d1")
            producer.produce(topics.ALARMS, b"no alarm", "d1")
            assert producer.flush(10) == 0
            name = f"d1/{OUTBOX}/1"
            wait_for(lambda: hook.seen[name] == 1, 30, "the webhook is told")
            [told] = hook.bodies[name]
            event = json.loads(told)
            assert (event["type"], event["id"], event["data"]["rule"]) == (ROUTED_TYPE, name, "all")
            assert get(port, "/healthz")[0] == 200
            families = {one.name: one for one in text_string_to_metric_families(get(port, "/metrics")[1])}
            lagging = {sample.labels["stage"] for sample in families["covey_stage_lag_messages"].samples}
            assert lagging == {"store", "enrich", "route"}
            processed = {
                (sample.labels["stage"], sample.labels["result"]): sample.value
                for sample in families["covey_stage_processed"].samples
                if sample.name.endswith("_total")
            }
            assert (processed["enrich", "enriched"], processed["enrich", "refused"]) == (1.0, 1.0)
            assert processed["route", "high"] == 1.0
            for wanted in ("covey_stage_expected_lag_messages", "covey_stage_consumers_wanted", "covey_delivery_tries"):
                assert families[wanted].samples
            # Other rules hold without a new start, and bad ones change nothing.
            rules = RULES.format(port=hook.port).replace('"high"', '"low"').replace('"all"', '"now low"')
            (tmp_path / "rules.toml").write_text(rules)
            wait_for(lambda: "read anew" in process.log.read_text(), 20, "the changed rules are read")
            (tmp_path / "rules.toml").write_text("otherwise = 1")
            refused = 'covey_files_refused_total{file="rules"} 1.0'
            wait_for(lambda: refused in get(port, "/metrics")[1], 20, "the bad rules are refused")
            producer.produce(topics.ALARMS, body(2, alarm("a2")), "d1")
            assert producer.flush(10) == 0
            second = f"d1/{OUTBOX}/2"
            wait_for(lambda: hook.seen[second] == 1, 30, "the webhook is told again")
            [told] = hook.bodies[second]
            data = json.loads(told)["data"]
            assert (data["rule"], data["level"]) == ("now low", "low")
        finally:
            process.stop()
            hook.close()
        assert process.wait(5) == 0


def test_a_thread_that_fails_ends_the_others_and_is_told() -> None:
    stop, failed = threading.Event(), threading.Event()
    ended = threading.Event()

    def patient() -> None:
        stop.wait(20)
        ended.set()

    def failing() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        supervise([Part("patient", patient, failed), Part("failing", failing, failed)], stop, failed)
    assert ended.is_set()


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--stages", "store,enrch", "'enrch'"),
        ("--rules", "{folder}/none.toml", "none.toml"),
        ("--instance", "a b", "--instance"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_2(tmp_path: Path, option: str, value: str, told: str) -> None:
    process = cloud_process(tmp_path, "check", "run", "--check", option, value.format(folder=tmp_path)).start()
    assert process.wait(30) == 2
    assert told in process.log.read_text()
    assert len(process.log.read_text().strip().splitlines()) == 1
