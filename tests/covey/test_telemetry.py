"""Trace context, as W3C has it."""

import pytest

from covey.telemetry import is_traceparent, new_trace


def test_a_new_trace_carries_its_id_in_its_traceparent_and_is_no_others():
    (one, header), (two, _) = new_trace(), new_trace()
    assert header.split("-")[:2] == ["00", one]
    assert is_traceparent(header)
    assert one != two


def test_the_example_of_the_specification_is_one():
    assert is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00-1-2-3",
        "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
    ],
)
def test_other_text_is_none(text):
    assert not is_traceparent(text)
