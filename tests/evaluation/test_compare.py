"""Comparison: systems are trained once, scored on the same images, and differ by paired intervals."""

import csv
import itertools
import json
import re

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import compare as compare_config
from jaxunet.core.errors import UserError
from jaxunet.evaluation import folds, significance
from jaxunet.evaluation.compare import _difference, compare
from jaxunet.evaluation.evaluate import evaluate
from jaxunet.runs import checks, config_file
from jaxunet.scoring import protocols
from jaxunet.training import programs


@pytest.fixture(scope="module")
def study(make_config) -> ConfigDict:
    """Two small networks, and one whose weights are not there."""
    config = compare_config.get_config()
    base = make_config()
    with config.unlocked():
        for key in compare_config.SHARED:
            config[key] = base[key]
        config.systems = {}
        for name, channels in (("narrow", (4, 8)), ("wide", (8, 16))):
            config.systems[name] = make_config()
            config.systems[name].model.channels = channels
            config.systems[name].train.total_steps = 2
        config.systems.pretrained = make_config()
        config.systems.pretrained.model.name = "resnet_unet"
        config.systems.pretrained.model.depth = 18
        config.systems.pretrained.init.weights = "nowhere.safetensors"
        config.dataset.image_size = 64
    return config


@pytest.fixture(scope="module")
def compared(study, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("compare")
    compare(study, [], {}, workdir, split="val", checkpoint="latest")
    return workdir


def rows(workdir):
    return list(csv.DictReader((workdir / "comparison.csv").read_text().splitlines()))


def test_systems_are_trained_scored_and_pictured(compared, capsys):
    report = (compared / "comparison.md").read_text()
    assert "| pretrained | skipped: config.init.weights=nowhere.safetensors does not exist" in report
    assert not (compared / "pretrained").exists()
    assert "| narrow - wide |" in report
    assert "images of 64x64" in report
    assert (compared / "comparison.png").stat().st_size > 5_000
    assert (compared / "side_by_side.png").stat().st_size > 5_000
    for name in ("narrow", "wide"):
        workdir = compared / name
        result = evaluate(config_file.load(workdir), workdir, split="val", checkpoint="latest")
        assert result["image_size"] == [64, 64]
        assert json.loads((workdir / "eval/val/metrics.json").read_text()) == result
        mine = {(r["protocol"], r["metric"]): r for r in rows(compared) if r["system"] == name}
        for protocol in protocols.PROTOCOLS:
            for metric, numbers in result[protocol].items():
                row = mine[protocol, metric]
                assert float(row["value"]) == numbers.get("mean", numbers.get("value"))
                assert [float(row["low95"]), float(row["high95"])] == numbers["ci95"]


def test_images_are_ranked_by_how_much_their_dice_differs(compared):
    table = list(csv.DictReader((compared / "per_image.csv").read_text().splitlines()))
    assert len(table) == 6
    for name in ("narrow", "wide"):
        path = compared / name / "eval/val/per_image.csv"
        dice = {r["id"]: r["dice"] for r in csv.DictReader(path.read_text().splitlines()) if r["target"] == "infection"}
        assert {r["id"]: r[f"dice {name}"] for r in table} == dice
    differences = [float(r["difference"]) for r in table]
    assert differences == [float(r["dice wide"]) - float(r["dice narrow"]) for r in table]
    assert [abs(d) for d in differences] == sorted((abs(d) for d in differences), reverse=True)
    assert any(differences)


def test_finished_systems_are_reused(study, compared, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "build_advance", lambda *_: (pytest.fail, 1))  # any step would fail
    compare(study, [], {}, compared, split="val", checkpoint="latest")
    runs = [compared / "narrow", compared / "wide"]
    compare(config_file.load(runs[0]), runs, {"eval.batch_size": 2}, tmp_path, split="val", checkpoint="latest")
    kept = [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows(compared)]
    assert [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows(tmp_path)] == kept


def test_systems_on_other_images_are_refused(compared, config, finished, tmp_path):
    with pytest.raises(UserError, match=rf"narrow and {finished.name} cannot be compared: .*image_size is 64 and 0"):
        compare(config, [compared / "narrow", finished], {}, tmp_path, split="val", checkpoint="latest")
    with pytest.raises(UserError, match="needs two systems"):
        compare(config, [compared / "narrow"], {}, tmp_path, split="val", checkpoint="latest")


@pytest.mark.parametrize("key", ["systems.narrow.seed", "systems.narrow.dataset.image_size", "dataset.targets"])
def test_overrides_without_effect_are_refused(study, tmp_path, key):
    with pytest.raises(UserError, match=f"--config.{key} has no effect"):
        compare(study, [], {key: 1}, tmp_path, split="val", checkpoint="latest")


def random_counts(seed, n=200):
    rng = np.random.default_rng(seed)
    truth, hit = rng.integers(20, 400, n), rng.uniform(0.3, 0.95, n)
    tp = (truth * hit).astype(int)
    fp = rng.integers(0, 100, n)
    return np.stack([tp, fp, truth - tp, 1000 - truth - fp], axis=1)


def test_differences_are_paired():
    """A system that is better by a hair on every image is surely better, however much the images differ."""
    a = random_counts(1)
    b = a + np.array([-2, 0, 2, 0])
    assert _difference(a, b, "dice").startswith("**+")
    assert _difference(a, a, "dice") == "+0.0000 [+0.0000, +0.0000]"
    low, high = re.fullmatch(r".*\[(.*), (.*)\].*", _difference(a, random_counts(2), "dice")).groups()
    assert float(low) < 0 < float(high)


def test_every_system_of_the_shipped_comparison_is_complete():
    for variant in ("", "small", "two_cores"):
        config = compare_config.get_config(variant)
        assert len(config.systems) == (5 if variant == "two_cores" else 4)
        for system in config.systems.values():
            checks.check(system)
    with pytest.raises(ValueError, match=r"compare.py:large is unknown"):
        compare_config.get_config("large")


def test_p_values_are_those_of_all_sign_changes_corrected_by_holm():
    rng = np.random.default_rng(5)
    a, noise = rng.random(9), rng.normal(0.05, 0.1, (2, 9))
    p = significance.paired_tests({"a": a, "b": a + noise[0], "c": a + noise[1]})
    difference = noise[0]
    means = [np.mean(difference * signs) for signs in itertools.product((-1, 1), repeat=9)]
    raw = np.mean(np.abs(means) >= abs(difference.mean()) - 1e-12)  # 512 sign changes: SciPy takes all, as we do here
    alone = significance.paired_tests({"a": a, "b": a + noise[0]})
    assert alone["a", "b"]["permutation"] == pytest.approx(raw, abs=1e-9)
    assert p["a", "b"]["permutation"] >= raw
    assert significance.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert significance.holm([0.6, 0.9]) == [1, 1]
    assert significance.paired_tests({"a": a, "b": a})["a", "b"] == {"permutation": 1.0, "Wilcoxon": 1.0}


def test_folds_are_one_system(config, tmp_path):
    """Runs that differ in the fold alone. Other runs, and runs of a fold with other settings, are other systems."""

    def run(folder, **changes):
        one = config.copy_and_resolve_references()
        one.update_from_flattened_dict(changes)
        return tmp_path / folder, one

    runs = {str(i): run(f"lungs_{i}", **{"dataset.fold": f"{i}/3", "dataset.source": str(i)}) for i in range(3)}
    runs |= {str(i): run(f"deep/{i}", **{"dataset.fold": f"{i}/3", "model.stem": 2}) for i in (3, 4)}
    runs |= {"one": run("one"), "two": run("two")}
    grouped = folds.group(runs)
    assert {name: [folder.name for folder, _ in of] for name, of in grouped.items()} == {
        "lungs": ["lungs_0", "lungs_1", "lungs_2"],
        "deep": ["3", "4"],
        "one": ["one"],
        "two": ["two"],
    }
