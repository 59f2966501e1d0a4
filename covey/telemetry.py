"""Trace context: one trace per alarm, from the window that raised it to whoever looks at it. Pure.

W3C Trace Context, level 1, section 3.2: `traceparent` = version "00", trace id, parent id, flags.
"""

from __future__ import annotations

import re
import secrets

_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def new_trace() -> tuple[str, str]:
    """(trace id, traceparent) for a new trace; sampled."""
    trace_id = secrets.token_hex(16)
    return trace_id, f"00-{trace_id}-{secrets.token_hex(8)}-01"


def is_traceparent(text: str) -> bool:
    """Whether `text` is a traceparent of version 00."""
    return _TRACEPARENT.fullmatch(text) is not None
