"""The rule of detection, saved and read back; how it is chosen and applied is tested where it is used."""

import json

import numpy as np
import pytest

from jaxunet.scoring.detection import Rule

SETTINGS = {"checkpoint_step": 7, "flips": False, "members": [], "threshold": 0.5}


@pytest.mark.parametrize("rule", [Rule("lung", 0.25, "a test"), Rule("probability", 0.75, "a test")])
def test_rules_are_read_back(rule):
    saved = json.loads(json.dumps(rule.to_dict() | {"from": rule.source}))
    assert set(saved) == {"score", "threshold", "from"}
    assert Rule.from_dict(saved, answers=rule.decides == "probability") == rule
    with pytest.raises(ValueError, match="cannot decide on COVID-19 by"):
        Rule.from_dict(saved, answers=rule.decides != "probability")


@pytest.mark.parametrize("change", [{"score": "liver"}, {"threshold": 1.5}, {"threshold": float("nan")}])
def test_what_is_no_rule_is_refused(change):
    with pytest.raises(ValueError, match="cannot decide on COVID-19 by"):
        Rule.from_dict({"score": "lung", "threshold": 0.25} | change, answers=False)


@pytest.mark.parametrize(
    ("decides", "change", "valid"),
    [
        ("lung", {}, True),
        ("lung", {"threshold": 0.4}, False),
        ("probability", {"threshold": 0.4}, True),
        ("probability", {"checkpoint_step": 8}, False),
        ("lung", {"flips": True}, False),
        ("lung", {"members": [{"workdir": "a"}]}, False),
    ],
)
def test_rule_of_val_holds_for_its_settings(decides, change, valid, tmp_path):
    """Rules on mask area also depend on the pixel threshold. Older files say nothing of flips and members."""
    old = {key: SETTINGS[key] for key in ("checkpoint_step", "threshold")}
    block = {"detection": {"score": decides, "threshold": 0.25, "threshold_from": "there"}}
    (tmp_path / "metrics.json").write_text(json.dumps(old | {"targets": {"infection": block}}))
    answers = decides == "probability"
    rule = Rule.of_val(tmp_path / "metrics.json", SETTINGS | change, answers=answers, source="here")
    assert rule == (Rule(decides, 0.25, "here") if valid else None)
    content = old | {"targets": {"infection": block}, "positive_class": "pneumothorax"}
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    rule = Rule.of_val(tmp_path / "metrics.json", SETTINGS | change, answers=answers, source="here")
    assert not valid or str(rule).startswith("pneumothorax if")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"detection": 3}', '{"targets": 3}'])
def test_a_damaged_evaluation_gives_no_rule(text, tmp_path):
    (tmp_path / "metrics.json").write_text(text)
    assert Rule.of_val(tmp_path / "metrics.json", SETTINGS, answers=False, source="") is None


def test_a_value_on_the_threshold_is_not_above_it():
    np.testing.assert_array_equal(Rule("lung", 0.25).calls(np.array([0.2, 0.25, 0.3])), [False, False, True])
