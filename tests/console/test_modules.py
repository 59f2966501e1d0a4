"""The console's pure modules, run where they run: in Chromium, imported from the console."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from console_pages import page_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def page(chromium: Browser, fleet: Any) -> Iterator[Page]:
    with page_of(chromium, fleet[0]) as one:
        yield one


def run(page: Page, module: str, code: str, given: Any = None) -> Any:
    """`code` with the module as `m` and what is given as `given`."""
    return page.evaluate(f"async (given) => {{ const m = await import('/js/{module}'); {code} }}", given)


def test_events_come_out_whole_however_their_bytes_were_cut(page: Page) -> None:
    text = "event: hello\ndata: {}\n\n: still here\n\nid: 7\r\nevent: fleet\r\ndata: a\r\ndata: b\r\n\r\ndata: lost"
    code = "const out = []; const feed = m.parser((e) => out.push([e.event, e.id, e.data])); for (const part of given) feed(part); return out;"
    wanted = [["hello", "", "{}"], ["fleet", "7", "a\nb"]]
    assert run(page, "live/sse.js", code, [text]) == wanted
    assert run(page, "live/sse.js", code, list(text)) == wanted


LAYOUT = "const l = m.layout(given.groups, given.width, given.height, 5);"


def test_each_cell_has_a_place_of_its_own_that_finds_its_row(page: Page) -> None:
    groups = [{"name": "a", "devices": 250}, {"name": "b", "devices": 1}, {"name": "c", "devices": 77}]
    code = LAYOUT + (
        "const at = Array.from({ length: 328 }, (_, n) => m.cell(l, n));"
        "return { found: at.map(({ x, y }) => m.hit(l, x + l.pitch / 2, y + l.pitch / 2)), places: new Set(at.map(({ x, y }) => `${x} ${y}`)).size, none: m.cell(l, 328) };"
    )
    found = run(page, "hive/layout.js", code, {"groups": groups, "width": 800, "height": 400})
    assert found == {"found": list(range(328)), "places": 328, "none": None}


def test_ten_thousand_cells_fit_into_the_height_and_few_are_large(page: Page) -> None:
    code = LAYOUT + "return [l.height <= given.height, l.pitch];"
    groups = [{"name": f"g{n}", "devices": 1250} for n in range(8)]
    assert run(page, "hive/layout.js", code, {"groups": groups, "width": 1030, "height": 610})[0] is True
    assert run(
        page, "hive/layout.js", code, {"groups": [{"name": "a", "devices": 12}], "width": 1030, "height": 610}
    ) == [True, 22]


ROWS = (
    "const r = new m.Rows(); r.load([{ name: 'a', devices: 2 }, { name: 'b', devices: 1 }],"
    "[['a1', 0, 'ok', .5, 1, 9, null, null], ['a2', 0, 'ok', null, 1, null, 1, 2], ['b1', 1, 'alarm', 2, 1, 9, null, null]]);"
)


def test_a_changed_device_keeps_its_row_and_a_new_one_makes_a_new_order(page: Page) -> None:
    code = ROWS + (
        "const changed = r.take({ devices: [['b1', 1, 'ok', .25, 2, 10, null, null]] });"
        "const kept = r.get(2);"
        "const order = r.take({ groups: [{ name: 'a', devices: 3 }, { name: 'b', devices: 0 }], gone: ['b1'], devices: [['a0', 0, 'watch', 1, 1, 9, null, null]] });"
        "return { changed, kept, order, names: r.names, second: r.get(2), blocks: r.blocks() };"
    )
    assert run(page, "state/rows.js", code) == {
        "changed": [2],
        "kept": ["b1", 1, "ok", 0.25, 2, 10, None, None],
        "order": None,
        "names": ["a0", "a1", "a2"],
        "second": ["a2", 0, "ok", None, 1, None, 1, 2],
        "blocks": [{"name": "a", "devices": 3}],
    }


def test_devices_follow_their_groups_when_the_groups_are_listed_anew(page: Page) -> None:
    code = ROWS + (
        "r.take({ groups: [{ name: 'new', devices: 1 }, { name: 'a', devices: 2 }, { name: 'b', devices: 1 }], devices: [['n1', 0, 'ok', .5, 1, 9, null, null]] });"
        "return r.names.map((name, n) => [name, r.groups[r.group[n]].name]);"
    )
    assert run(page, "state/rows.js", code) == [["n1", "new"], ["a1", "a"], ["a2", "a"], ["b1", "b"]]


def test_lines_of_the_inbox_begin_with_incidents_and_keep_the_order_of_the_rest(page: Page) -> None:
    code = (
        "const alarm = (device) => ({ device, alarm_id: 'x' });"
        "const incident = { id: 'i', alarms: [['d2', 'x'], ['d3', 'x']] };"
        "const list = ['d1', 'd2', 'd4', 'd3'].map(alarm);"
        "const ids = (opened) => m.lines(list, [incident], new Set(opened)).map((line) => line.id);"
        "return [ids([]), ids(['i'])];"
    )
    assert run(page, "state/inbox.js", code) == [["i", "d1 x", "d4 x"], ["i", "d2 x", "d3 x", "d1 x", "d4 x"]]


def test_what_is_looked_at_keeps_its_place_when_it_leaves_the_list(page: Page) -> None:
    code = (
        "const alarm = (device) => ({ device, alarm_id: 'x' });"
        "const of = (...names) => names.map(alarm);"
        "const line = (...names) => m.lines(of(...names), [], new Set());"
        "const [looked] = line('d2');"
        "const ids = (all) => all.map((one) => [one.id, one.gone ?? null]);"
        "const incident = { id: 'i', alarms: [['d2', 'x'], ['d3', 'x']] };"
        "return [m.withLooked(line('d1', 'd2'), looked, 1, of('d1', 'd2')), m.withLooked(line('d1', 'd3'), looked, 1, of('d1', 'd3')),"
        " m.withLooked(m.lines(of('d2', 'd3'), [incident], new Set()), looked, 0, of('d2', 'd3')), m.withLooked(line('d1'), null, 0, of('d1')), m.withLooked(line('d1'), looked, 1, null)].map(ids);"
    )
    assert run(page, "state/inbox.js", code) == [
        [["d1 x", None], ["d2 x", None]],  # still listed
        [["d1 x", None], ["d2 x", True], ["d3 x", None]],  # judged by another
        [["d2 x", False], ["i", None]],  # part of an incident by now: to be judged alone all the same
        [["d1 x", None]],
        [["d1 x", None], ["d2 x", False]],  # ended, or pushed out by newer ones: it may need a verdict still
    ]


def test_addresses_mean_pages_with_names_that_need_escaping(page: Page) -> None:
    code = "return ['/', '/why/d%201/a%2Fb', '/devices/x', '/learning/ab', '/nowhere'].map((path) => m.parse(path)).map((one) => [one.page, one.device ?? one.run ?? null, one.alarm_id ?? null]);"
    assert run(page, "router.js", code) == [
        ["fleet", None, None],
        ["why", "d 1", "a/b"],
        ["device", "x", None],
        ["learning", "ab", None],
        ["missing", None, None],
    ]


def test_mercator_shows_all_points_and_keeps_what_is_under_the_pointer(page: Page) -> None:
    code = (
        "const points = [[10.7, 59.9], [9, 46]].map(([lon, lat]) => [m.toX(lon), m.toY(lat)]);"
        "const c = m.fit(points, 800, 600); const px = ([x, y], c) => [(x - c.x) * c.scale + 400, (y - c.y) * c.scale + 300];"
        "const near = m.zoom(c, 3, 123, 456, 800, 600);"
        "const under = [(123 - 400) / c.scale + c.x, (456 - 300) / c.scale + c.y];"
        "return { inside: points.map((p) => px(p, c)).every(([x, y]) => x >= 0 && x <= 800 && y >= 0 && y <= 600), at: px(under, near), lat: m.toLat(m.toY(59.9)) };"
    )
    found = run(page, "map/projection.js", code)
    assert found["inside"] is True
    assert found["at"] == pytest.approx([123, 456], abs=1e-6)
    assert found["lat"] == pytest.approx(59.9, abs=1e-9)


def test_figures_never_say_all_or_nothing_of_what_is_nearly(page: Page) -> None:
    code = "return [0, .004, .56, .9953, .9999, 1].map(m.percent).concat([3, 5400, 90000].map(m.span), [999, 1234567].map(m.bytes), m.times(NaN));"
    said = ["0 %", "<1 %", "56 %", "99.5 %", "99.9 %", "100 %", "3 s", "1 h 30 min", "1 d 1 h", "999 B", "1.2 MB", "–"]  # noqa: RUF001  # the sign of "none"
    assert run(page, "format.js", code) == said
