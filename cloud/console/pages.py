"""Pages of a list: where the next one begins, as a word that means something here only. Pure."""

from __future__ import annotations

import base64
import binascii
from typing import Any, TypeVar

import msgspec

from cloud.console.problems import Refused

T = TypeVar("T")


def token(place: object) -> str:
    """The word for a place."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def place(word: str | None, kind: type[T]) -> T | None:
    """The place of a word; None: the beginning.

    Raises:
        Refused: 400, it is not one of ours.
    """
    if not word:
        return None
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(word + "=" * (-len(word) % 4)), type=kind)
    except (msgspec.DecodeError, binascii.Error, ValueError) as error:
        raise Refused(400, "after: `next` of the page before expected") from error


def cut(found: list[T], limit: int, place_of: Any) -> tuple[list[T], str | None]:
    """Of one row more than a page has: the page, and where the next one begins."""
    if len(found) <= limit:
        return found, None
    return found[:limit], token(place_of(found[limit - 1]))
