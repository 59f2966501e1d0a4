"""Sends routed alarms by mail: one message for what came together, the same Message-ID in every try of the same message."""

from __future__ import annotations

import email.utils
import hashlib
import smtplib
import ssl
from datetime import datetime, timezone
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING

from cloud.stream.webhook import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloud.stream.rules_file import Mailbox, Smtp
    from covey.wire_alarms import Routed

PERMANENT = range(500, 600)  # SMTP, RFC 5321 section 4.2.1


def compose(smtp: Smtp, box: Mailbox, alarms: Sequence[tuple[str, str, Routed]]) -> EmailMessage:
    """One message about alarms. Pure but for the date.

    Args:
        smtp: says who sends.
        box: who gets it.
        alarms: (event's id, device, what was routed), at least one.
    """
    message = EmailMessage()
    message["From"] = smtp.sender
    message["To"] = ", ".join(box.to)
    message["Date"] = email.utils.formatdate()
    message["Message-ID"] = message_id([event for event, _, _ in alarms], box.name, smtp.sender)
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday notes, please
    message["Subject"] = _plain(subject(alarms))
    message.set_content("\n\n".join(_lines(*one) for one in alarms) + "\n")
    return message


def message_id(events: Sequence[str], box: str, sender: str) -> str:
    """The same for the same events to the same mailbox."""
    digest = hashlib.sha256("\n".join((box, *sorted(events))).encode()).hexdigest()[:40]
    domain = _plain(sender.rpartition("@")[2].rstrip("> ")) or "covey"
    return f"<{digest}@{domain}>"


def subject(alarms: Sequence[tuple[str, str, Routed]]) -> str:
    """The headline."""
    _, device, first = alarms[0]
    level = "high" if any(one.level == "high" for _, _, one in alarms) else "low"
    if len(alarms) == 1:
        verb = "alarm" if first.alarm.state == "begin" else "alarm over"
        return f"[covey {level}] {device}: {verb}: {first.alarm.top_channel}"
    devices = len({name for _, name, _ in alarms})
    return f"[covey {level}] {len(alarms)} alarms of {devices} device{'s' * (devices > 1)}, first {device}"


def send(smtp: Smtp, message: EmailMessage) -> Answer:
    """One try; whatever goes wrong is told in the answer."""
    try:
        context = ssl.create_default_context(cafile=smtp.ca_file or None)
        server: smtplib.SMTP
        if smtp.tls == "tls":
            server = smtplib.SMTP_SSL(smtp.host, smtp.port, timeout=smtp.timeout_s, context=context)
        else:
            server = smtplib.SMTP(smtp.host, smtp.port, timeout=smtp.timeout_s)
        with server:
            if smtp.tls == "starttls":
                server.starttls(context=context)
            if smtp.user:
                server.login(smtp.user, Path(smtp.password_file).read_text(encoding="utf-8").strip())
            server.send_message(message)
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        lasting = all(code in PERMANENT for code in codes)
        return Answer(taken=False, error=f"{smtp.host}: every recipient refused: {codes}"[:256], again=not lasting)
    except (OSError, smtplib.SMTPException) as error:
        return Answer(taken=False, error=f"{smtp.host}: {' '.join(str(error).split())}"[:256])
    return Answer(taken=True)


def _lines(event: str, device: str, routed: Routed) -> str:
    alarm, context = routed.alarm, routed.context
    at = datetime.fromtimestamp(alarm.window.start_s, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    lines = [
        f"{device}: {'alarm' if alarm.state == 'begin' else 'alarm over'}: {alarm.top_channel} at {at} (its clock)",
        f"score {alarm.score:.3g}, {context.score_ratio:.2f} times its threshold; confidence {alarm.confidence:.3g}",
        (
            f"group {context.group or 'unknown'}: {context.peers_alarming} of {context.peers} peers alarm, "
            f"{context.lift:.1f} times the usual"
        ),
        f"level {routed.level}, rule {routed.rule or '-'}",
        f"why: covey cloud why {event}",
    ]
    if alarm.detail:
        lines.insert(1, alarm.detail)
    return "\n".join(_plain(line) for line in lines)


def _plain(text: str) -> str:
    """One line of printable characters: what devices wrote must not become a header."""
    return "".join(one if one.isprintable() else " " for one in text)
