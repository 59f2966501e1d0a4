"""Scenario files: every bad key is named, the library is sound, and its page says what the files and the code say."""

import json
import re
from dataclasses import MISSING
from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from covey.errors import ConfigError, UsageError
from firmware_sim.links import PROFILES, LinkProfile
from firmware_sim.params import bodies_of, draw, problems
from firmware_sim.plan import plan_fleet
from firmware_sim.scenario import Scenario, library, load_scenario, parse_scenario
from firmware_sim.scenario_cli import register
from firmware_sim.world.faults import KINDS, SENSORS, parameters_of

PAGE = (Path(__file__).parents[2] / "docs" / "scenarios.md").read_text(encoding="utf-8")
HEAD = 'title = "t"\nduration_s = 120\ndevices = 10\n'
CUT = '[[changes]]\nkind = "propeller-cut"\nshare = 0.2\nonset_s = [20, 90]\n'

app = typer.Typer()
register(app)


@app.callback()
def sim():
    """A root, so that the command keeps its name."""


def refused(text, head=HEAD):
    """The problems of a scenario, by path."""
    with pytest.raises(ConfigError) as caught:
        parse_scenario((head + text).encode(), "site.toml", "site")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("site.toml: ")
    return dict(problem.split(": ", 1) for problem in message.removeprefix("site.toml: ").split("; "))


def run(*arguments):
    result = CliRunner().invoke(app, ["scenarios", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


# -- what a file may not say ----------------------------------------------------------------------------------------------


def test_one_message_names_every_bad_key_by_its_path():
    text = """
titel = "x"
devices = 0
summary_interval_s = "5"
[vehicles]
missions = ["loop", "shuttle"]
rest_s = [9, 3]
[[links]]
profile = "5g"
share = 0.8
[[links]]
profile = "wifi"
share = 0.8
[profiles.x]
loss = 0.9
speed = 1
[[changes]]
kind = "wings"
share = 0.2
onset_s = [3, 2]
[[changes]]
kind = "propeller-cut"
share = 0.2
onset_s = [20, 30, 40]
[[changes]]
kind = "propeller-cut"
share = 1.2
onset_s = [20, 60]
[[changes]]
kind = "propeller-cut"
share = 0.2
onset_s = [20, 60]
params = { motor = [0, 4], cut_mm = [2, 9], wing = 3 }
[[storms]]
[clocks]
jumps = [{ at_s = 500, by_s = [1, 2] }, { at_s = 5, by_s = [inf, 2] }]
"""
    assert refused(text, 'title = "t"\nduration_s = 120\n').keys() == {
        "titel",
        "devices",
        "summary_interval_s",
        "vehicles.missions[0]",
        "vehicles.rest_s",
        "links[0].profile",
        "links",
        "profiles.x.loss",
        "profiles.x.speed",
        "changes[0].kind",
        "changes[0].onset_s",
        "changes[1].onset_s",
        "changes[2].share",
        "changes[3].params.motor",
        "changes[3].params.cut_mm",
        "changes[3].params.wing",
        "storms[0].at_s",
        "clocks.jumps[0].at_s",
        "clocks.jumps[1].by_s[0]",
    }


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ('prefix = "no blanks"', "prefix", "letters, digits"),
        ("keepalive_s = 1.5", "keepalive_s", "expected `int`"),
        ("devices = true", "devices", "expected `int`"),
        ("reboot_off_s = [0, 3]", "reboot_off_s", "above 0 s expected, 0 came"),
        ("[vehicles]\nmissions = []", "vehicles.missions", "at least one of shuttle, square"),
        (
            '[vehicles]\nmissions = ["shuttle", "square"]\ncommission_flights = 1',
            "vehicles.commission_flights",
            "1 came",
        ),
        ("[vehicles]\npool_quadrotors = 0", "vehicles.pool_quadrotors", ">= 1"),
        ("vehicles = 3", "vehicles", "a table expected"),
        ("links = [3]", "links[0]", "a table expected"),
        ("[site]\nlat_deg = 91", "site.lat_deg", "<= 85"),
        ("[site]\nlat_deg = nan", "site.lat_deg", "finite"),
        ("[[storms]]\nat_s = 120", "storms[0].at_s", "within the 120 s of the scenario expected, 120 came"),
        ("[[outages]]\nat_s = 121\nfor_s = 5", "outages[0].at_s", "within the 120 s"),
        ("[[outages]]\nat_s = 1\nfor_s = 0", "outages[0].for_s", "> 0"),
        ('[[outages]]\nat_s = 1\nfor_s = 5\nlink = "5g"', "outages[0].link", "ethernet, wifi, lte, satellite"),
        ("[[reboots]]\nat_s = 1\noff_s = [3, 2]", "reboots[0].off_s", "[3, 2] came"),
        ("[profiles.x]\noutage_s = 3", "profiles.x", "outage_every_s"),
        ("[profiles.x]\nname = 'y'", "profiles.x.name", "unknown key"),
        ("[profiles.x]\nloss = 'much'", "profiles.x.loss", "'much' came"),
        (CUT + "params = { motor = 1, cut_mm = 3.0 }\nwhy = 1", "changes[0].why", "unknown key"),
        (CUT + "params = { motor = 1 }", "changes[0].params.cut_mm", "missing"),
        (CUT + "params = { motor = [1.5, 2], cut_mm = 3.0 }", "changes[0].params.motor", "whole numbers"),
        (CUT + "params = { motor = 1, cut_mm = [4.0, 2.0] }", "changes[0].params.cut_mm", "[low, high]"),
        (CUT + "params = { motor = 1, cut_mm = [] }", "changes[0].params.cut_mm", "at least one choice"),
        (CUT + "params = { motor = true, cut_mm = 3.0 }", "changes[0].params.motor", "a number or a text"),
        (CUT + "params = { motor = { one_of = [1, 7] }, cut_mm = 3.0 }", "changes[0].params.motor", "7 came"),
        (CUT + "params = { motor = { some = [1] }, cut_mm = 3.0 }", "changes[0].params.motor", "one_of"),
        (CUT + 'body = "machine"', "changes[0].body", "of quadrotor only"),
        (CUT.replace("90", "130"), "changes[0].onset_s", "within the 120 s"),
        (CUT.replace("20, 90", "2, 5"), "changes[0].onset_s", "to at least 18.6"),
        (CUT.replace("20, 90", "110, 115"), "changes[0].onset_s", "from at most 102.4"),
        (2 * CUT.replace("0.2", "0.6"), "changes of quadrotors", "1.2 came"),
    ],
)
def test_what_cannot_be_is_named_with_what_was_expected(text, path, problem):
    head = HEAD.replace("devices = 10\n", "") if text.startswith("devices") else HEAD
    assert problem in refused(text, head)[path]


def test_a_change_needs_a_body_that_the_fleet_has_and_says_which_when_it_has_both():
    stuck = '[[changes]]\nkind = "sensor-stuck"\nshare = 0.2\nonset_s = [20, 90]\nparams = { sensor = "%s" }\n'
    mixed = "[vehicles]\nmachine_share = 0.5\n"
    assert "quadrotor or machine expected" in refused(mixed + stuck % "accel")["changes[0].body"]
    assert "a sensor of a quadrotor" in refused(stuck % "temp.cpu")["changes[0].params.sensor"]
    heat = '[[changes]]\nkind = "overheating"\nshare = 0.2\nonset_s = [20, 90]\nparams = { airflow_share = 0.1 }\n'
    assert "the fleet has only quadrotors" in refused(heat)["changes[0].body"]
    machines = parse_scenario((HEAD + "[vehicles]\nmachine_share = 1.0\n" + stuck % "temp.cpu").encode(), "x", "x")
    assert machines.body_of(machines.changes[0]) == "machine"


def test_a_flight_must_fit_where_something_is_to_begin_in_one():
    text = '[[changes]]\nkind = "payload"\nshare = 0.2\nonset_s = [2, 15]\nparams = { mass_g = 3.0 }\n'
    assert "26 s expected, 20 came" in refused(text, HEAD.replace("120", "20"))["duration_s"]


def test_what_is_no_scenario_at_all_is_told_in_one_line(tmp_path):
    (tmp_path / "torn.toml").write_text("title = = 3")
    (tmp_path / "latin.toml").write_bytes(b'title = "\xfc"')
    for name, told in (
        ("torn.toml", "not TOML: Invalid value (at line 1, column 9)"),
        ("latin.toml", "not TOML: UTF-8 text expected, byte 9 is none"),
        ("none.toml", "no such file"),
        (".", "a TOML file expected, a folder came"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_scenario(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {told}"
    with pytest.raises(
        ConfigError, match=r"^scenario ten-milion: no such file, and the library has only .*ten-thousand"
    ):
        load_scenario("ten-milion")


# -- what a file may say --------------------------------------------------------------------------------------------------


def test_a_file_is_loaded_by_its_path_and_named_after_itself(tmp_path):
    path = tmp_path / "coast.toml"
    path.write_text(HEAD + 'summary_interval_s = 7\n[profiles.wifi]\nlatency_s = 0.5\n[[links]]\nprofile = "wifi"\n')
    scenario = load_scenario(path)
    assert (scenario.name, scenario.idle_summary_interval_s) == ("coast", 7.0)
    assert scenario == load_scenario(str(path))
    assert scenario.link_profile("wifi") == LinkProfile("wifi", latency_s=0.5)
    assert scenario.link_profile("lte") == PROFILES["lte"]


def test_parameters_are_one_value_a_range_or_a_choice():
    assert {draw("propeller-cut", "motor", [1, 4], part) for part in (0.0, 0.3, 0.6, 0.999)} == {1, 2, 3, 4}
    assert draw("propeller-cut", "cut_mm", [2, 4], 0.25) == 2.5
    assert draw("propeller-cut", "cut_mm", [1.2344, 9.0], 0.0) == 1.2344  # rounded, but never out of the range
    assert draw("propeller-cut", "cut_mm", 3, 0.9) == 3
    assert draw("propeller-cut", "motor", {"one_of": [1, 3]}, 0.5) == 3
    assert draw("propeller-cut", "cut_mm", [1.0, 2.0, 4.0], 0.99) == 4.0
    assert draw("sensor-stuck", "sensor", ["gps", "baro"], 0.49) == "gps"


def test_a_bias_too_large_for_one_of_its_sensors_is_found():
    wrong = problems("sensor-bias", "quadrotor", {"sensor": ["accel-x", "baro"], "size": [-60.0, 60.0]})
    assert wrong.keys() == {"size"}
    assert "accel-x" in wrong["size"]


# -- the library ----------------------------------------------------------------------------------------------------------


def test_the_library_has_at_least_eight_scenarios_and_each_tells_what_it_is_for():
    assert len(library()) >= 8
    for name in library():
        scenario = load_scenario(name)
        assert scenario.name == name
        assert min(len(scenario.title), len(scenario.description), len(scenario.expect)) > 20
        assert 30 <= scenario.duration_s <= 180


@pytest.mark.parametrize("name", library())
def test_each_library_scenario_plans_at_any_size(name):
    scenario = load_scenario(name)
    for devices in (1, 60):
        plan = plan_fleet(scenario, devices, 1)
        assert len(plan.devices) == devices
        assert len(plan.recordings) <= 330
    assert any(d.stretches for d in plan_fleet(scenario, min(scenario.devices, 500), 1).devices)


def test_mixed_faults_has_every_fault_of_a_quadrotor():
    kinds = {change.kind for change in load_scenario("mixed-faults").changes}
    assert kinds == {kind for kind, f in KINDS.items() if f.category == "fault" and "quadrotor" in f.bodies}


# -- the page ---------------------------------------------------------------------------------------------------------------


def bounds(schema):
    """As the page writes them, from the JSON schema of the structs."""
    schema = schema.get("prefixItems", [schema])[0]
    if "minimum" in schema:
        return f"{schema['minimum']} to {schema['maximum']}"
    return f"above {schema['exclusiveMinimum']} to {schema['maximum']}" if "exclusiveMinimum" in schema else "-"


def default(schema):
    value = schema["default"]
    if isinstance(value, dict) or value in ([], ()):
        return "none"
    if isinstance(value, (list, tuple)):
        return "`[" + ", ".join(json.dumps(v) if isinstance(v, str) else f"{v:g}" for v in value) + "]`"
    return {"": "empty"}.get(value, f"`{value}`") if isinstance(value, str) else f"{value:.10g}"


def test_the_page_has_every_key_with_its_bounds_and_default_and_no_other():
    wanted = set()
    for struct in msgspec.json.schema(Scenario)["$defs"].values():
        for key, schema in struct["properties"].items():
            wanted.add((key, bounds(schema), "needed" if key in struct.get("required", []) else default(schema)))
    keys = PAGE.split("\n## Keys\n")[1].split("\n## The library\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| [a-z ]+ \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", keys, re.MULTILINE)
    assert {(key, bound, value) for key, bound, value in rows} == wanted


def test_the_page_has_every_key_of_a_link_profile():
    for key in LinkProfile.__struct_fields__[1:]:
        assert re.search(rf"^\|.*`{key}`.*\| from 0 \||^\| `{key}` .*\| 0 to 0.5 \|", PAGE, re.MULTILINE), key


def test_the_page_has_every_kind_with_its_parameters_and_every_sensor():
    for kind, fault in KINDS.items():
        told = []
        for field in parameters_of(kind):
            data = field.metadata
            if "choices" in data:
                what = "a sensor"
            elif "longest" in data:
                what = "text"
            else:
                what = f"{data['low']:g} to {data['high']:g} {data['unit']}".rstrip()
            told.append(f"`{field.name}` ({what})" + ("" if field.default is MISSING else " *"))
        assert f"| `{kind}` | {fault.category} | {' or '.join(bodies_of(kind))} | {', '.join(told)} |" in PAGE
    assert all(f"`{sensor}`" in PAGE for sensor in SENSORS)


def test_the_page_tells_every_library_scenario_as_its_file_does():
    shown = PAGE.split("\n## The library\n")[1]
    assert re.findall(r"^### (.+)$", shown, re.MULTILINE) == list(library())
    for name in library():
        s = load_scenario(name)
        head = f"### {name}\n\n**{s.title}.** {s.devices} devices, {s.duration_s:g} s.\n\n"
        assert f"{head}{s.description}\n\n*A healthy system:* {s.expect}\n" in shown


def test_the_example_of_the_page_is_a_scenario():
    example = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL).group(1)
    plan = plan_fleet(parse_scenario(example.encode(), "page", "page"))
    assert sum(bool(d.truth) for d in plan.devices) == 10


# -- the command ------------------------------------------------------------------------------------------------------------


def test_the_command_lists_the_library():
    lines = run().stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(library())
    listed = json.loads(run("--json").stdout)
    assert listed[0].keys() == {"name", "title", "devices", "duration_s"}
    assert [item["name"] for item in listed] == list(library())


def test_the_command_shows_what_a_fleet_would_do():
    told = json.loads(run("--show", "cut-propellers", "--devices", "200", "--seed", "3", "--json").stdout)
    assert told["devices"] == {"quadrotor": 200, "machine": 0}
    assert told["changes"]["propeller-cut"]["devices"] == 60
    text = run("--show", "cut-propellers", "--devices", "200", "--seed", "3").stdout
    assert "200 quadrotors" in text
    assert re.search(r"propeller-cut +fault +60 ", text)
    assert "every alarm would be a false one" in run("--show", "calm-day").stdout


def test_the_command_checks_a_file(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(HEAD)
    assert run("--check", path).stdout == f"{path}: good (10 devices, 120 s, 0 changes)\n"
    assert json.loads(run("--check", path, "--json").stdout)["ok"] is True
    path.write_text(HEAD + "wheels = 4\n")
    with pytest.raises(ConfigError, match="wheels: unknown key"):
        run("--check", path)


@pytest.mark.parametrize(
    "arguments", [("--show", "smoke", "--check", "x"), ("--devices", "3"), ("--check", "x", "--seed", "3")]
)
def test_options_that_do_not_go_together_are_refused(arguments):
    with pytest.raises(UsageError, match="expected"):
        run(*arguments)
