"""The files of the console: what others wrote is what its README says, and the first page asks for all of its modules at once."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from cloud.console.files import FOLDER, address_of

if TYPE_CHECKING:
    from pathlib import Path

VENDOR = FOLDER / "vendor"


def imports(path: Path, found: set[Path]) -> set[Path]:
    """A module and what it imports at once, and they in turn."""
    if path not in found:
        found.add(path)
        code = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        for name in re.findall(r"""(?:^|[;}\n])\s*(?:import|export)\b[^;"']*?from\s*["'](\.[^"']+)["']""", code):
            imports((path.parent / name).resolve(), found)
    return found


def test_files_of_others_are_those_whose_sums_are_told():
    told = dict(re.findall(r"^\| `([^`]+)` \| `([0-9a-f]{64})` \|$", (VENDOR / "README.md").read_text(), re.MULTILINE))
    there = {
        path.name
        for path in VENDOR.iterdir()
        if path.is_file() and path.name != "README.md" and not path.name.endswith(".d.ts")
    }
    assert set(told) == there
    for name, digest in told.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name


def test_every_library_has_its_licence():
    said = (VENDOR / "README.md").read_text()
    for path in (VENDOR / "licenses").iterdir():
        assert path.stem in said
    assert len(list((VENDOR / "licenses").iterdir())) == 8


def test_the_page_asks_for_all_modules_of_the_first_picture_at_once():
    page = (FOLDER / "index.html").read_text()
    asked = {FOLDER / name for name in re.findall(r'rel="modulepreload" href="/([^"]+)"', page)}
    assert asked == imports(FOLDER / "js" / "main.js", set())


def test_the_page_has_nothing_inline_that_its_policy_would_refuse():
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", page)


def test_no_file_of_ours_names_another_host():
    ours = [path for kind in ("js", "css") for path in (FOLDER / kind).rglob("*") if path.is_file()]
    assert not [
        path.name for path in [*ours, FOLDER / "index.html"] if re.search(r'https?://|["\'(]//\w', path.read_text())
    ]


def test_addresses_of_pages_are_answered_with_the_page():
    for path in ("/", "/inbox", "/admin", "/learning/0123456789abcdef", "/devices/cf-1", "/why/cf-1/a/b"):
        assert address_of(path) == "/index.html"
    assert address_of("/js/main.js") == "/js/main.js"
