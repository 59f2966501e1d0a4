"""Plan files: every bad key in one message; what goes together and what does not."""

from __future__ import annotations

import pytest

from covey.errors import ConfigError
from federated.plans import make_plan, read_plan


def refused(told, where="plan.toml"):
    with pytest.raises(ConfigError) as caught:
        make_plan(told, where)
    return str(caught.value)


def test_a_file_is_a_plan(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(
        'family = "dense-ae"\nstrategy = "bulyan"\nrounds = 20\nfraction = 0.5\ncompress = "int8"\nmin_clients = 19\n'
        "[dense]\nepochs = 5\n[server]\nhostile = 4\n"
    )
    plan = make_plan(read_plan(path), str(path))
    assert (plan.rule, plan.rounds, plan.fraction, plan.compress) == ("bulyan", 20, 0.5, "int8")
    assert (plan.dense.epochs, plan.dense.batch, plan.server.hostile) == (5, 16, 4)


def test_the_default_rules_are_sums_for_pca_and_a_trimmed_mean_for_autoencoders():
    assert make_plan({"family": "pca"}, "x").rule == "sum"
    assert make_plan({"family": "dense-ae"}, "x").rule == "trimmed"


def test_every_bad_key_is_named_in_one_message():
    text = refused(
        {
            "family": "dense-ae",
            "round": 3,
            "rounds": 0,
            "fraction": 1.5,
            "clip": "most",
            "dense": {"epoch": 3, "trim": 0.7},
            "privacy": {"epsilon": -1.0},
        }
    )
    assert text.startswith("plan.toml: round: no such key; rounds: expected `int` >= 1; fraction: ")
    for part in ("clip: ", "dense.epoch: no such key", "dense.trim: ", "privacy.epsilon: "):
        assert part in text


def test_a_family_that_is_none_is_told():
    assert "family: " in refused({"family": "forest"})
    assert "family: expected, missing" in refused({"rounds": 3})


def test_exact_sums_and_trimming_exclude_each_other():
    text = refused({"family": "pca", "strategy": "trimmed"})
    assert "strategy: family pca takes sum, 'trimmed' came (its sums are exact" in text


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"family": "dense-ae", "strategy": "sum"}, "strategy: family dense-ae takes trimmed, fedavg"),
        ({"family": "pca", "compress": "int8"}, "compress: of autoencoders only, family pca sends exact sums"),
        ({"family": "pca", "privacy": {}}, "privacy: of autoencoders only"),
        ({"family": "dense-ae", "masked": True}, "masked: sums of family pca only, dense-ae is merged by trimmed"),
        ({"family": "dense-ae", "strategy": "fedprox"}, "dense.proximal above 0 expected"),
        ({"family": "dense-ae", "privacy": {}}, "privacy: strategy fedavg or fedprox expected"),
        (
            {"family": "dense-ae", "strategy": "fedavg", "privacy": {"side": "client"}},
            "compress: 'none' expected with privacy.side client",
        ),
        ({"family": "dense-ae", "strategy": "fedavg", "privacy": {}, "clip": 1.0}, "clip: privacy.clip is the bound"),
        ({"family": "dense-ae", "server": {"hostile": 2}}, "server.hostile: of krum, multikrum and bulyan"),
        (
            {"family": "dense-ae", "strategy": "bulyan", "server": {"hostile": 4}, "min_clients": 10},
            "min_clients: at least 19 expected, so that bulyan bears 4 hostile devices, 10 came",
        ),
        ({"family": "dense-ae", "strict": True}, "strict: no such key"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_with_the_reason(told, why):
    assert why in refused(told)


def test_several_misfits_are_told_at_once():
    text = refused({"family": "pca", "strategy": "krum", "compress": "topk", "server": {"hostile": 1}})
    assert text.count(";") >= 2


@pytest.mark.parametrize("content", ["family = ", "\xff"])
def test_a_file_that_is_no_toml_is_told(tmp_path, content):
    path = tmp_path / "plan.toml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"plan\.toml: TOML expected"):
        read_plan(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_plan(tmp_path / "none.toml")
