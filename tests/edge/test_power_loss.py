"""A power cut, told by copies of a disk's blocks at random instants: what the outbox said is on disk, is."""

import json

import pytest

from harm import images

INSTANTS = 300 if images.LONG else 20


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.timeout(1800 if images.LONG else 180)
def test_no_row_that_was_on_disk_is_lost_to_a_power_cut(tmp_path):
    images.need_namespaces()
    said = images.in_own_namespace("harm.power", str(tmp_path), str(INSTANTS), "1", timeout_s=10 * INSTANTS + 60)
    figures = json.loads(said)
    assert figures["instants"] == INSTANTS
    assert figures["rows"] > 100 * INSTANTS
    assert figures["agent_rows"] > INSTANTS


@pytest.mark.slow
@pytest.mark.broker
def test_on_a_full_disk_the_newest_alarms_are_kept_and_the_oldest_summaries_told_as_dropped(tmp_path):
    images.need_namespaces()
    figures = json.loads(images.in_own_namespace("harm.full", str(tmp_path), timeout_s=110))
    assert figures["dropped"] > 0
    assert figures["alarms"] > 20
