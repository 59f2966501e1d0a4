"""Errors as docs/api.md has them: `{"error", "code"}`, one line each, and the same for everything that can go wrong."""

from __future__ import annotations

import logging
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Struct

from cloud.store.schema import StoreRefusesError
from covey.errors import CoveyError, NameTaken, StoreError, UnknownName, UsageError

_log = logging.getLogger("cloud.console")

_CODES = {
    400: "bad_request",
    401: "login_needed",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    429: "too_many",
    503: "store",
}


class Problem(Struct):
    """What went wrong: a sentence for people and a word for programs."""

    error: str
    code: str


class Refused(CoveyError):
    """A request that cannot be done, with its status, word and how long to wait."""

    def __init__(self, status: int, error: str, code: str = "", retry_s: float | None = None) -> None:
        super().__init__(error)
        self.status, self.code, self.retry_s = status, code or _CODES[status], retry_s


def responses(*statuses: int) -> dict[int, ResponseSpec]:
    """How a route tells these in OpenAPI; 400 and what every route may answer come by themselves."""
    told = {400, 403, 413, 429, 503, *statuses}
    return {
        status: ResponseSpec(data_container=Problem, description=_CODES[status], generate_examples=False)
        for status in sorted(told)
    }


def of_error(error: Exception) -> Refused:  # noqa: PLR0911  # one line an error
    """Any error as a refusal."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, UnknownName):
        return Refused(404, str(error))
    if isinstance(error, NameTaken):
        return Refused(409, str(error))
    if isinstance(error, (UsageError, StoreRefusesError)):
        return Refused(400, str(error))
    if isinstance(error, StoreError):
        return Refused(503, str(error), retry_s=1.0)
    if isinstance(error, ValidationException):
        told = [
            f"{one.get('key') or 'body'}: {one.get('message')}" for one in error.extra or [] if isinstance(one, dict)
        ]
        return Refused(400, "; ".join(told)[:1000] or error.detail)
    if isinstance(error, HTTPException):
        return Refused(error.status_code, error.detail[:1000], _CODES.get(error.status_code, "error"))
    _log.error("a request failed", exc_info=error)
    return Refused(500, "the console failed at this; its log says why", "internal")


def answer(_request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """The response to an error, for Litestar."""
    refused = of_error(error)
    headers = dict(getattr(error, "headers", None) or {})
    if refused.retry_s is not None:
        headers["retry-after"] = str(max(1, round(refused.retry_s + 0.5)))
    return Response(Problem(str(refused), refused.code), status_code=refused.status, headers=headers)
