"""Schemathesis against the running console: what it answers is what its OpenAPI document says, whatever it is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.strategies import booleans
from schemathesis import GenerationMode

import console_rig as rig

if TYPE_CHECKING:
    from collections.abc import Iterator

FILLED = {"device": "d1", "alarm_id": "a1", "group": "default", "number": 1, "run": rig.RUN}
EXAMPLES = 30  # of each route, that fit its document, and as many that do not
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
# Not asked: a stream has no end; the others would end the session that asks, or take its account.
LEFT_OUT = {"stream", "login", "logout", "change_password", "change_account", "remove_account"}
OPERATIONS = sorted(
    {
        *(
            "me",
            "fleet",
            "devices",
            "add_device",
            "device",
            "change_device",
            "forget_device",
            "command_device",
            "scores",
        ),
        *("alarms", "alarm", "judge_alarm", "judge_alarms", "releases", "want_release", "learning", "runs", "run"),
        *("start_run", "system", "deadletters", "deliveries", "audit", "accounts", "add_account"),
    }
)
NOTHING_GIVEN = {
    "me",
    "fleet",
    "runs",
    "start_run",
    "system",
    "accounts",
    "device",
    "alarm",
    "run",
}  # nothing in them could be wrong


def without_tuples(schema: Any) -> Any:
    """Schemathesis 4.32 reads `prefixItems` as the old `items` and refuses that: say of a tuple only what its parts may be."""
    if isinstance(schema, list):
        return [without_tuples(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    told = {key: without_tuples(value) for key, value in schema.items()}
    if "prefixItems" in told:
        told["items"] = {"anyOf": told.pop("prefixItems")}
    return told


class Site:
    def __init__(self, console: rig.Console) -> None:
        with console.client() as client:
            document = client.get("/api/openapi.json").json()
        # Who may ask is test_console_roles.py's: here every request is the admin's, and none is about that.
        for methods in document["paths"].values():
            for told in methods.values():
                told.pop("security")
                # Words that only an answer can give: test_lists_come_in_pages.
                told["parameters"] = [one for one in told.get("parameters", []) if one["name"] != "after"]
        document["components"]["schemas"] = without_tuples(document["components"]["schemas"])
        schema = schemathesis.openapi.from_dict(document)
        schema.config.update(base_url=console.base)
        admin = console.logged_in("admin")
        self.cookies = {"covey_session": admin.cookies["covey_session"]}
        self.headers = {"X-CSRF-Token": admin.headers["X-CSRF-Token"]}
        self.operations = {
            found.ok().definition.raw["operationId"]: found.ok() for found in schema.get_all_operations()
        }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("schema")
    url, engine = rig.new_store(folder)
    rig.add_accounts(engine)
    with rig.Console(folder, url, requests_per_s=10_000) as console:
        yield Site(console)
    engine.dispose()


def test_every_route_is_asked_or_left_out_for_a_reason(site: Site):
    assert set(site.operations) == LEFT_OUT | set(OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_fits_the_document_is_answered_as_it_says(site: Site, name: str):
    check(site, name, GenerationMode.POSITIVE)


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - NOTHING_GIVEN))
def test_what_does_not_fit_the_document_is_refused_as_it_says(site: Site, name: str):
    check(site, name, GenerationMode.NEGATIVE)


def check(site: Site, name: str, mode: GenerationMode) -> None:
    @BOUNDED
    @hypothesis.given(case=site.operations[name].as_strategy(generation_mode=mode), known=booleans())
    def ask(case: Any, known: bool) -> None:
        if known and case.path_parameters:  # half of the time of what is there
            case.path_parameters = {key: FILLED.get(key, value) for key, value in case.path_parameters.items()}
        case.call_and_validate(headers=site.headers, cookies=site.cookies)

    ask()
