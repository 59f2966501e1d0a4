"""The recipes of docs/gateway.md are configurations that load, and do what the page says."""

import re
from pathlib import Path

import pytest

from covey.config import load
from gateway.config import GatewayConfig
from gateway.mapping import Mapping, Mappings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "gateway.md").read_text(encoding="utf-8")
SECTION = PAGE.split("## Any device\n")[1].split("\n## ")[0]
RECIPES = re.findall(r"```toml\n(.*?)```", SECTION, re.DOTALL)


def _mappings(tmp_path: Path, text: str) -> tuple[Mapping, ...]:
    file = tmp_path / "gateway.toml"
    file.write_text(text)
    return load(GatewayConfig, "gateway", file, None, {}).mappings


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_loads(tmp_path, recipe) -> None:
    assert _mappings(tmp_path, recipe)


def test_the_first_recipe_shows_every_key_with_its_default(tmp_path) -> None:
    (mapping,) = _mappings(tmp_path, RECIPES[0])
    assert mapping == Mapping(filter="tele/+/SENSOR", topic="tasmota.sensors", key="{1}")
    assert all(re.search(rf"^{key} = ", RECIPES[0], re.MULTILINE) for key in Mapping.__struct_fields__)


def test_the_recipes_together_route_as_the_page_says(tmp_path) -> None:
    found = Mappings(_mappings(tmp_path, "\n".join(RECIPES[1:])))
    wanted = {
        "tele/plug/SENSOR": ("tasmota.sensors", b"plug"),
        "tele/plug/LWT": ("tasmota.presence", b"plug"),
        "stat/plug/RESULT": ("tasmota.results", b"plug"),
        "zigbee2mqtt/bridge/state": ("zigbee.bridge", b"bridge"),
        "zigbee2mqtt/attic/window": ("zigbee.devices", b"attic/window"),
        "spBv1.0/STATE/scada": ("sparkplug.state", b"scada"),
        "spBv1.0/G1/NDEATH/node": ("sparkplug", b"G1/node"),
        "spBv1.0/G1/DDATA/node/pump": ("sparkplug", b"G1/node"),
    }
    routes = {topic: found.find(topic) for topic in wanted}
    assert {t: r and (r.mapping.topic, r.key) for t, r in routes.items()} == wanted
