"""MQTT filters: the tables of MQTT 5.0, section 4.7, and a second matcher written another way."""

import random
import re

import pytest

from gateway import filters
from gateway.mapping import Mapping, Mappings

# (filter, topics that match, topics that do not): the examples of MQTT 5.0, 4.7.1.2, 4.7.1.3 and 4.7.2
SPEC = [
    (
        "sport/tennis/player1/#",
        ("sport/tennis/player1", "sport/tennis/player1/ranking", "sport/tennis/player1/score/wimbledon"),
        ("sport/tennis/player2", "sport/tennis"),
    ),
    ("sport/#", ("sport", "sport/tennis"), ("sports", "/sport")),
    ("#", ("sport", "/finance", "a//b"), ("$SYS", "$SYS/monitor/Clients")),
    ("sport/tennis/#", ("sport/tennis", "sport/tennis/"), ("sport",)),
    ("sport/tennis/+", ("sport/tennis/player1", "sport/tennis/player2"), ("sport/tennis/player1/ranking",)),
    ("sport/+", ("sport/",), ("sport",)),
    ("+", ("finance",), ("/finance", "$SYS")),
    ("+/tennis/#", ("sport/tennis", "/tennis/a/b"), ("$SYS/tennis", "tennis")),
    ("sport/+/player1", ("sport/tennis/player1", "sport//player1"), ("sport/player1",)),
    ("+/+", ("/finance", "a/b"), ("finance", "$SYS/a")),
    ("/+", ("/finance",), ("finance", "/finance/x")),
    ("+/monitor/Clients", ("x/monitor/Clients",), ("$SYS/monitor/Clients",)),
    ("$SYS/#", ("$SYS/monitor/Clients", "$SYS/"), ("SYS/a",)),
    ("$SYS/monitor/+", ("$SYS/monitor/Clients",), ("$SYS/monitor",)),
    ("ACCOUNTS", ("ACCOUNTS",), ("Accounts",)),
    ("Accounts payable", ("Accounts payable",), ("Accounts_payable",)),
]


def _matches(name: str, topic: str) -> bool:
    return Mappings((Mapping(filter=name, topic="t", key="{topic}"),)).find(topic) is not None


@pytest.mark.parametrize(("name", "inside", "outside"), SPEC)
def test_filters_match_as_the_standard_says(name, inside, outside) -> None:
    assert filters.problem(name) == ""
    assert [t for t in inside if not _matches(name, t)] == []
    assert [t for t in outside if _matches(name, t)] == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        "sport/tennis#",
        "sport/tennis/#/ranking",
        "#/",
        "sport+",
        "sport/+x/y",
        "++",
        "a/\0",
        "a" * 65_536,
        "é" * 32_768,
    ],
)
def test_what_the_standard_calls_no_filter_is_refused(name) -> None:
    assert "expected" in filters.problem(name)


@pytest.mark.parametrize("name", ["a" * 65_535, "é" * 32_767, "/", "//", "$SYS/#", "$shared/x", " "])
def test_odd_filters_that_are_valid_are_taken(name) -> None:
    assert filters.problem(name) == ""


def test_a_shared_subscription_is_refused_for_the_order() -> None:
    assert "order" in filters.problem("$share/group/tele/+/SENSOR")


def _pattern(name: str) -> re.Pattern[str]:
    """The second matcher: a regular expression."""
    if name in ("#", "+/#"):
        return re.compile(r"(?!\$).*", re.DOTALL)
    text = re.escape(name).replace(r"\+", "[^/]*").replace(r"/\#", "(/.*)?")
    return re.compile(("(?!\\$)" if name[0] in "+#" else "") + text, re.DOTALL)


def _words(chance: random.Random, words: str, most: int) -> str:
    return "/".join(chance.choice(words.split(",")) for _ in range(chance.randint(1, most)))


def _filter(chance: random.Random) -> str:
    name = _words(chance, "a,b,+,,$s", 4)
    return chance.choice((name, name + "/#")) if name else "#"


def test_a_second_matcher_agrees_on_random_filters_and_topics() -> None:
    chance = random.Random(7)
    hits = 0
    for _ in range(300):
        names = [_filter(chance) for _ in range(chance.randint(1, 6))]
        table = Mappings(tuple(Mapping(filter=n, topic=str(i), key="k") for i, n in enumerate(names)))
        patterns = [_pattern(n) for n in names]
        for _ in range(60):
            topic = _words(chance, "a,b,c,,$s", 5)
            first = next((str(i) for i, p in enumerate(patterns) if p.fullmatch(topic)), None)
            route = table.find(topic)
            assert (route.mapping.topic if route else None) == first, (names, topic)
            hits += first is not None
    assert 2_000 < hits < 16_000


def test_crossing_and_covering_agree_with_all_topics_of_a_small_world() -> None:
    words = ("a", "b", "c", "", "$s")
    world = [""]
    every: list[str] = []
    for _ in range(5):
        world = [f"{t}/{w}" for t in world for w in words]
        every += [t[1:] for t in world if t != "/"]
    chance = random.Random(11)
    names = list({"#", "+/#", "+", *(_filter(chance) for _ in range(60))})
    matched = {n: {t for t in every if _pattern(n).fullmatch(t)} for n in names}
    seen = set()
    for one in names:
        for other in names:
            crossing, covered = bool(matched[one] & matched[other]), matched[one] >= matched[other]
            assert filters.cross(one, other) == crossing, (one, other)
            assert filters.covers(one, other) == covered, (one, other)
            seen.add((crossing, covered))
    assert seen == {(True, True), (True, False), (False, False)}


def test_the_number_of_levels_is_known_without_a_hash() -> None:
    assert [filters.most_levels(n) for n in ("a", "a/+/c", "/", "a/#", "#")] == [1, 3, 2, None, None]
