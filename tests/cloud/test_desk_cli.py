"""`covey cloud devices|feedback|accounts|audit`: what they print, refuse and change."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

import pytest

from cloud.cli import app
from cloud.desk import accounts
from cloud.store.schema import open_store
from cloud.store.writer import write_batch
from cloud_events import alarm, received
from covey.cli import one_line

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(store_url: str) -> str:
    engine = open_store(store_url)
    write_batch(engine, "b", {}, [received(1, alarm()), received(1, alarm("a2"), device="d2")])
    engine.dispose()
    return store_url


def cloud(*words: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            with one_line():
                code = app(list(words), standalone_mode=False)
        except SystemExit as end:
            code = end.code
    return (code if isinstance(code, int) else 0), out.getvalue(), err.getvalue()


def fleet(store: str, *words: str) -> dict[str, tuple[str, str, dict[str, str]]]:
    code, out, _ = cloud("devices", "list", "--store", store, "--json", *words)
    assert code == 0
    return {row["device"]: (row["group"], row["state"], row["labels"]) for row in json.loads(out)}


def test_devices_are_added_moved_labelled_and_retired(store: str) -> None:
    assert cloud("devices", "add", "d3", "--group", "north", "--label", "site=quay", "--store", store)[0] == 0
    code, out, _ = cloud("devices", "move", "d1", "d2", "--group", "north", "--store", store, "--json")
    assert (code, [row["device"] for row in json.loads(out)]) == (0, ["d1", "d2"])
    assert cloud("devices", "label", "d1", "site=mine", "owner=x", "--store", store)[0] == 0
    assert cloud("devices", "label", "d1", "owner=", "--store", store)[0] == 0
    assert cloud("devices", "retire", "d2", "--store", store)[0] == 0
    assert fleet(store) == {
        "d1": ("north", "active", {"site": "mine"}),
        "d3": ("north", "active", {"site": "quay"}),
    }
    assert list(fleet(store, "--retired")) == ["d1", "d2", "d3"]
    assert list(fleet(store, "--label", "site=quay")) == ["d3"]
    assert list(fleet(store, "--group", "default")) == []
    assert cloud("devices", "retire", "d2", "--back", "--store", store)[0] == 0
    assert list(fleet(store)) == ["d1", "d2", "d3"]


def test_the_bare_word_lists_and_options_before_a_subcommand_are_refused(store: str) -> None:
    code, out, _ = cloud("devices", "--store", store)
    assert (code, out.splitlines()[0].split()[:2], len(out.splitlines())) == (0, ["device", "group"], 3)
    code, out, err = cloud("devices", "--store", store, "retire", "d1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "after the word 'retire'" in err
    assert fleet(store)["d1"][1] == "active"


def test_forgetting_asks_for_the_name_again_and_prints_a_receipt(store: str) -> None:
    code, _, err = cloud("devices", "forget", "d1", "--confirm", "d2", "--store", store)
    assert (code, err) == (2, "covey: --confirm: d1 expected, d2 received\n")
    assert "d1" in fleet(store)
    code, out, _ = cloud("devices", "forget", "d1", "--confirm", "d1", "--store", store, "--json")
    receipt = json.loads(out)
    assert (code, receipt["id"], receipt["erased"]["alarms"]) == (0, 1, 1)
    assert list(fleet(store)) == ["d2"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("devices", "move", "d9", "--group", "north"), "one that is known expected, 'd9' received"),
        (("devices", "add", "d1"), "d1: a new device expected"),
        (("devices", "label", "d1", "site"), "KEY=VALUE expected, 'site' received"),
        (("devices", "parameters", "d1"), "--summary-interval-s or --reset expected"),
        (("devices", "parameters", "d1", "--summary-interval-s", "5"), "none is wanted yet"),
        (("feedback", "a9", "confirm"), "alarm: one that is known expected, 'a9' received"),
        (("accounts", "add", "ada", "--role", "viewer"), "admin expected for the first account"),
        (("accounts", "remove", "ada"), "account: one that is known expected"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_2(store: str, words: tuple[str, ...], told: str) -> None:
    code, out, err = cloud(*words, "--store", store)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert told in err


def test_feedback_is_said_once_and_can_be_undone(store: str) -> None:
    for word, verdict, changed in (
        ("reject", "rejected", True),
        ("reject", "rejected", False),
        ("undo", "undone", True),
        ("acknowledge", "acknowledged", False),  # the rejection acknowledged it, too
    ):
        code, out, _ = cloud("feedback", "a1", word, "--note", "n", "--store", store, "--json")
        assert code == 0
        assert json.loads(out) == {"device": "d1", "alarm_id": "a1", "verdict": verdict, "changed": changed}
    code, out, _ = cloud("audit", "--store", store, "--json")
    assert [row["action"] for row in json.loads(out)] == ["undone", "rejected"]
    assert json.loads(out)[0]["actor"].startswith("cli:")


def test_accounts_from_a_file_that_is_read_to_its_first_line(store: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct horse battery\nsecond line\n")
    assert cloud("accounts", "add", "ada", "--role", "admin", "--password-file", str(secret), "--store", store)[0] == 0
    assert cloud("accounts", "add", "bob", "--oidc", "--store", store)[0] == 0
    engine = open_store(store, create=False)
    assert accounts.check_password(engine, "ada", "correct horse battery") == "admin"
    engine.dispose()
    code, out, _ = cloud("accounts", "list", "--store", store)
    lines = [line.split()[:4] for line in out.splitlines()]
    assert (code, lines[1:]) == (0, [["ada", "admin", "yes", "password"], ["bob", "viewer", "yes", "oidc"]])
    secret.write_text("")
    code, _, err = cloud("accounts", "change", "ada", "--password-file", str(secret), "--store", store)
    assert (code, "it is empty" in err) == (2, True)
    assert cloud("accounts", "change", "bob", "--role", "operator", "--disable", "--store", store)[0] == 0
    assert cloud("accounts", "remove", "bob", "--store", store)[0] == 0
