"""Static files and pages: read once, compressed once, known by their hash. A page's address is answered with index.html."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
from pathlib import Path
from typing import Any, NamedTuple

from litestar import Request, Response, get
from litestar.exceptions import NotFoundException

FOLDER = Path(__file__).parent / "static"
INDEX = "index.html"
_PAGE = re.compile(r"/(inbox|rollouts|learning(/[^/]+)?|system|login|admin|devices(/[^/]+)?|why/.+)?/?")
_TEXT = re.compile(r"text/|application/(javascript|json)|image/svg")
_LEVEL = 9


class File(NamedTuple):
    """A file in memory."""

    body: bytes
    compressed: bytes | None  # gzip, where that is smaller
    media_type: str
    etag: str


def read_all(folder: Path = FOLDER) -> dict[str, File]:
    """Address -> file, of all files in a folder; none of those whose names begin with a dot."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or any(part.startswith(".") for part in name.split("/")):
            continue
        body = path.read_bytes()
        media_type = {".js": "text/javascript", ".mjs": "text/javascript", ".woff2": "font/woff2"}.get(path.suffix)
        media_type = media_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
        compressed = gzip.compress(body, _LEVEL, mtime=0) if _TEXT.match(media_type) else None
        if compressed is not None and len(compressed) >= len(body):
            compressed = None
        found[f"/{name}"] = File(body, compressed, media_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
    return found


def address_of(path: str) -> str:
    """Which file answers an address."""
    return f"/{INDEX}" if _PAGE.fullmatch(path) else path


def route(files: dict[str, File]) -> Any:
    """The handler of everything that is no other route."""

    @get(["/", "/{path:path}"], include_in_schema=False, sync_to_thread=False)
    def static(request: Request[Any, Any, Any]) -> Response[bytes]:
        """A file, or the page."""
        found = files.get(address_of(request.scope["path"]))
        if found is None:
            raise NotFoundException(f"a page or a file expected, nothing is at {request.scope['path'][:120]!r}")
        # Asked for again each time, answered with 304 while it is the same: an update of covey is seen at once.
        headers = {"etag": found.etag, "cache-control": "no-cache", "vary": "accept-encoding"}
        known = request.headers.get("if-none-match", "")
        if any(tag.strip().removeprefix("W/") in (found.etag, "*") for tag in known.split(",")):
            return Response(b"", status_code=304, headers=headers)
        if found.compressed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
            return Response(found.compressed, media_type=found.media_type, headers=headers)
        return Response(found.body, media_type=found.media_type, headers=headers)

    return static
