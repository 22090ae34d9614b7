"""Analysis against sums, sorts and pairs written out; averages over flips and runs; what evaluation writes."""

import csv
import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxunet import commands
from jaxunet.core.errors import UserError
from jaxunet.data.examples import Split
from jaxunet.evaluation import analysis, evaluate, figures, per_image
from jaxunet.models import averaging
from jaxunet.prediction import loading
from jaxunet.runs import config_file
from jaxunet.scoring import bootstrap, counts, protocols
from jaxunet.scoring.counts import pixel_counts
from jaxunet.scoring.detection import Rule, rule_settings
from tests.support.xrays import records

N, SIZE = 13, 16
LABELS = np.array([0] * 7 + [1] * 3 + [2] * 3)


@pytest.fixture(scope="module")
def split() -> dict[str, np.ndarray]:
    """Logits and masks [N, 16, 16] of COVID-19 images and of controls, whose masks are empty, some with ties."""
    rng = np.random.default_rng(0)
    truth = rng.random((N, SIZE, SIZE)) < rng.uniform(0.1, 0.6, (N, 1, 1))
    truth[LABELS > 0] = False
    logits = rng.normal(0, 2, truth.shape) + np.where(truth, 1.5, -2) - 1.5 * (LABELS > 0)[:, None, None]
    logits[3, :4], logits[-2:] = 0.0, -9.0  # exactly 0.5 is not above 0.5; blank predictions
    return {"truth": truth, "logits": logits.astype(np.float32)}


@pytest.fixture(scope="module")
def histogram(split) -> np.ndarray:
    out = counts.histogram(jnp.asarray(split["logits"])[..., None], jnp.asarray(split["truth"])[..., None])
    assert out.dtype == jnp.int32
    return np.asarray(out)[:, 0]


def dice_at(split, threshold: float) -> list[tuple[int, int]]:
    """Of each image: twice the hits, and the pixels of truth and prediction together."""
    result = []
    for logits, truth in zip(split["logits"], split["truth"], strict=True):
        predicted = logits > np.float32(np.log(threshold / (1 - threshold)))
        result.append((2 * int((predicted & truth).sum()), int(predicted.sum() + truth.sum())))
    return result


def test_threshold_sweep_is_exact(split, histogram):
    sweep = analysis.threshold_sweep(histogram, LABELS == 0)
    assert sweep["thresholds"] == pytest.approx(np.linspace(0.05, 0.95, 19))
    for k, threshold in enumerate(sweep["thresholds"]):
        parts = dice_at(split, threshold)
        each = [hits / both if both else 1.0 for hits, both in parts]
        assert sweep["P1"]["dice"][k] == pytest.approx(np.mean(each[:7]), abs=1e-12)
        assert sweep["P3"]["dice"][k] == pytest.approx(np.mean(each), abs=1e-12)
        assert sweep["P2"]["dice"][k] == sum(h for h, _ in parts[:7]) / sum(b for _, b in parts[:7])
        for protocol in ("P1", "P2", "P3"):
            low, high = sweep[protocol]["ci95"][k]
            assert low <= sweep[protocol]["dice"][k] <= high
    best = sweep["P1"]["best"]
    assert best["dice"] == max(sweep["P1"]["dice"]) == sweep["P1"]["dice"][sweep["thresholds"].index(best["threshold"])]
    # The same numbers and intervals as the protocols themselves.
    counts = pixel_counts(jnp.asarray(split["logits"])[..., None], jnp.asarray(split["truth"])[..., None], 0.5)
    summary = protocols.summarize(np.asarray(counts)[:, 0], LABELS == 0, resamples=bootstrap.RESAMPLES)
    for protocol, statistic in (("P1", "mean"), ("P2", "value"), ("P3", "mean")):
        assert sweep[protocol]["dice"][9] == pytest.approx(summary[protocol]["dice"][statistic], abs=1e-15)
        assert sweep[protocol]["ci95"][9] == pytest.approx(summary[protocol]["dice"]["ci95"], abs=1e-12)


def test_calibration_equals_a_loop_over_pixels(split, histogram):
    result = analysis.calibration(histogram, LABELS == 0)
    for name, chosen in (("covid", LABELS == 0), ("all", LABELS >= 0)):
        bins: list[list[tuple[float, bool]]] = [[] for _ in range(10)]
        for logit, truth in zip(split["logits"][chosen].ravel(), split["truth"][chosen].ravel(), strict=True):
            p = 1 / (1 + np.exp(-float(logit)))
            bins[int(np.ceil(p * 10 - 1e-9)) - 1].append((p, bool(truth)))
        total = sum(map(len, bins))
        means = [[float(np.mean([pair[i] for pair in b])) for b in bins] for i in (0, 1)]
        ece = sum(len(b) / total * abs(p - t) for b, p, t in zip(bins, *means, strict=True))
        assert result[name]["pixels"] == [len(b) for b in bins]
        np.testing.assert_allclose(result[name]["mean_probability"], means[0], atol=4e-5)
        np.testing.assert_allclose(result[name]["observed_share"], means[1], atol=1e-12)
        assert result[name]["ece"]["value"] == pytest.approx(ece, abs=4e-5)
        low, high = result[name]["ece"]["ci95"]
        assert low <= high < 1


def test_correlations_and_auc_equal_scipy_also_in_resamples():
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 8, 30) / 8, rng.integers(0, 8, 30) / 8 + rng.random(30).round(1)  # with ties
    positive = rng.random(30) < 0.4
    times = np.concatenate([np.ones((1, 30)), rng.multinomial(30, np.full(30, 1 / 30), 20)]).astype(float)
    columns = [statistic(x, y, times) for statistic in (bootstrap.pearson, bootstrap.spearman)]
    areas = bootstrap.auc(x, positive, times)
    for row, n in enumerate(times.astype(int)):
        a, b, yes = np.repeat(x, n), np.repeat(y, n), np.repeat(positive, n)
        assert columns[0][row] == pytest.approx(scipy.stats.pearsonr(a, b).statistic, abs=1e-12)
        assert columns[1][row] == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)
        pairs = [(p > q) + (p == q) / 2 for p in a[yes] for q in a[~yes]]
        assert areas[row] == pytest.approx(np.mean(pairs), abs=1e-12)
    assert np.isnan(bootstrap.auc(x, np.ones(30, bool), times)).all()
    constant = bootstrap.value(lambda t: bootstrap.pearson(x, np.full(30, 0.3), t), 30)
    assert constant == {"value": None, "ci95": None, "n": 30}


def test_intervals_cover_the_mean():
    """Of 200 samples of 50 numbers of mean 0, about 95 % have an interval that holds 0."""
    draws = np.random.default_rng(2).normal(size=(200, 50))
    held = [low <= 0 <= high for low, high in (bootstrap.mean(values)["ci95"] for values in draws)]
    assert 0.88 <= np.mean(held) <= 0.99


def test_youden_threshold_is_the_best_of_all():
    rng = np.random.default_rng(3)
    for _ in range(20):
        score, positive = rng.integers(0, 12, 25) / 12, rng.random(25) < 0.5
        score[positive] += 0.25

        def j(t: float, score: np.ndarray = score, positive: np.ndarray = positive) -> float:
            return np.mean(score[positive] > t) + np.mean(score[~positive] <= t)

        chosen = Rule.chosen("lung", score, positive).threshold
        assert chosen not in score
        assert j(chosen) == max(j(t) for t in np.linspace(-0.1, 1.3, 300))


def test_detection_uses_the_threshold_it_is_given():
    share = np.array([0.4, 0.1, 0.0, 0.3, 0.2, 0.1, 0.0, 0.0])
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    controls = {"Non-COVID": labels == 1, "Normal": labels == 2}
    given = analysis.detection(share, labels == 0, controls, Rule("lung", 0.15, "somewhere"))
    assert (given["threshold"], given["threshold_from"]) == (0.15, "somewhere")
    assert given["sensitivity"]["mean"] == 0.5
    assert given["specificity"]["mean"] == 0.75
    assert {k: v["mean"] for k, v in given["specificity_by_class"].items()} == {"Non-COVID": 0.5, "Normal": 1.0}
    assert given["auc"]["value"] == (4 + 2.5 + 1 + 4) / 16
    free = analysis.detection(share, labels == 0, controls, Rule.chosen("lung", share, labels == 0))
    assert free["threshold"] == 0.25  # 2 of 4 and 4 of 4; above 0.05, 3 of 4 and 2 of 4
    assert "these images" in free["threshold_from"]


def test_gated_protocols_by_hand():
    """Six images of 100 pixels; one share lies exactly on the threshold, which is not above it."""
    #            COVID: kept, kept, missed, on it; controls: alarm, rightly blanked
    counts = np.array(
        [[30, 10, 10, 50], [20, 0, 20, 60], [5, 5, 15, 75], [40, 0, 10, 50], [0, 30, 0, 70], [0, 2, 0, 98]]
    )
    covid = np.array([True, True, True, True, False, False])
    columns = dict(zip(("tp", "fp", "fn", "tn"), counts.T, strict=True))
    columns["predicted_share"] = np.array([0.4, 0.2, 0.1, 0.15, 0.3, 0.02])
    rule = Rule("lung", 0.15, "somewhere")
    result = analysis.gated(columns, rule.calls(columns["predicted_share"]), covid, rule, chosen_here=False)
    # Counted as: 30 10 10 50, 20 0 20 60, 0 0 20 80, 0 0 50 50, 0 30 0 70, 0 0 0 100
    dice, iou = [60 / 80, 40 / 60, 0, 0, 0, 1], [30 / 50, 20 / 40, 0, 0, 0, 1]
    for protocol, n in (("P1", 4), ("P3", 6)):
        for name, values in (("dice", dice[:n]), ("iou", iou[:n])):
            block = result[protocol][name]
            expected = [np.mean(values), np.median(values), min(values), max(values), n]
            assert [block[k] for k in ("mean", "median", "min", "max", "n")] == pytest.approx(expected)
            assert block["ci95"][0] <= block["mean"] <= block["ci95"][1]
    assert result["P2"]["dice"]["value"] == pytest.approx(100 / (100 + 10 + 100))
    assert result["P2"]["iou"]["value"] == pytest.approx(50 / 160)
    assert result["P2_all"]["dice"]["value"] == pytest.approx(100 / (100 + 40 + 100))
    assert result["P3"]["accuracy"]["mean"] == pytest.approx(np.mean([0.8, 0.8, 0.8, 0.5, 0.7, 1]))
    assert result["controls"] == {"n": 2, "blank_predictions": 1}
    assert result["blanked"] == {"n": 3, "covid": 2}
    assert (result["threshold"], result["threshold_from"]) == (0.15, "somewhere")
    assert not result["threshold_chosen_on_these_images"]
    everything = analysis.gated(columns, np.ones(6, bool), covid, rule, chosen_here=True)
    ungated = protocols.summarize(counts, covid, resamples=bootstrap.RESAMPLES)
    assert {k: everything[k] for k in ungated} == ungated
    assert everything["threshold_chosen_on_these_images"]


def test_lesion_sizes_are_cut_at_the_quartiles():
    rng = np.random.default_rng(4)
    area = rng.permutation(np.arange(1, 42))
    columns = {"tp": area - 1, "fn": np.ones(41, int), "dice": area / 41, "iou": area / 82, "hd95": 1.0 * area}
    result = analysis.by_lesion_size(columns)
    assert result["edges_pixels"] == [1, 11, 21, 31, 41]
    assert [g["n"] for g in result["groups"]] == [10, 10, 10, 11]
    assert [g["hd95"]["mean"] for g in result["groups"]] == [5.5, 15.5, 25.5, 36]
    same = analysis.by_lesion_size({name: np.ones(5) for name in columns})  # all of one size
    assert [g["n"] for g in same["groups"]] == [0, 0, 0, 5]


def test_infected_shares():
    infection, lung = np.zeros((2, 3, SIZE, SIZE), bool)
    infection[0, :4, :4], lung[0, :8, :8] = True, True
    infection[1, :4, :4], lung[1, 2:10, :8] = True, True
    infection[2, 0, 0] = True  # and no lung
    packed = np.packbits(np.stack([infection, lung], axis=-1), axis=2)
    np.testing.assert_array_equal(per_image.infected_shares(packed, records("infection", "lung")), [16 / 64, 8 / 64, 0])
    np.testing.assert_array_equal(
        per_image.infected_shares(packed[..., ::-1], records("lung", "infection")), [0.25, 0.125, 0]
    )
    np.testing.assert_array_equal(
        per_image.infected_shares(packed[..., :1], records("infection")), [1 / 16, 1 / 16, 1 / 256]
    )


def test_severity_is_error_and_correlation():
    truth, predicted = np.array([0.2, 0.4, 0.9, 0.0]), np.array([0.3, 0.2, 0.8, 0.4])
    result = analysis.severity(truth, predicted, np.array([True, True, True, False]), share_of="lung")
    assert result["covid"]["bias"]["mean"] == pytest.approx(-0.2 / 3)
    assert result["covid"]["absolute_error"]["mean"] == pytest.approx(0.4 / 3)
    assert result["all"]["absolute_error"]["mean"] == pytest.approx(0.2)
    assert result["all"]["pearson"]["value"] == pytest.approx(np.corrcoef(truth, predicted)[0, 1])
    assert result["covid"]["spearman"]["value"] == pytest.approx(0.5)


def test_table_of_a_split_and_its_picture(split, histogram, tmp_path):
    """One target, with empty masks on one side and on both."""
    truth, predicted = split["truth"], split["logits"] > 0
    counts = np.stack([(truth & predicted), (~truth & predicted), (truth & ~predicted), ~truth & ~predicted], axis=-1)
    mask, shown = (np.packbits(x, axis=2)[..., None] for x in (truth, predicted))
    arrays, ids = {"image": np.zeros(truth.shape, np.uint8), "mask": mask}, [f"{i:02d}.png" for i in range(N)]
    data = Split(arrays, LABELS, ids, ("COVID-19", "Non-COVID", "Normal"), "COVID-19")
    measured = per_image.Measured(counts.sum(axis=(1, 2))[:, None].astype(np.int32), histogram[:, None], shown)
    table = per_image.tabulate(measured, data, records("infection"), (2.0,), threads=2)
    np.testing.assert_array_equal(measured.predicted(4), predicted[4])
    block = {"threshold": 0.5} | analysis.analyse(table["infection"], histogram, data, share_of="image", rule=None)
    assert block["surface"]["P3"]["both_empty"] == 2
    assert block["surface"]["P3"]["one_empty"] == 4
    assert block["surface"]["P1"]["one_empty"] == 0
    diagonal = SIZE * np.sqrt(2)
    assert block["surface"]["P3"]["hd95"]["mean"] * N == pytest.approx(
        block["surface"]["P1"]["hd95"]["mean"] * 7 + 4 * diagonal
    )
    assert block["severity"]["covid"]["truth"]["mean"] == pytest.approx(truth[:7].mean())
    text = "\n".join(analysis.lines(block))
    assert block["gated"]["threshold_chosen_on_these_images"]
    for words in ("HD95", "lesion size", "severity", "ROC AUC", "gated", "ECE", "best on this split: P1 Dice"):
        assert words in text
    figures.analysis(block, table["infection"], LABELS == 0, tmp_path / "analysis.png")
    assert (tmp_path / "analysis.png").stat().st_size > 20_000
    rows = list(csv.DictReader(per_image.to_csv(table, data).splitlines()))
    assert [float(r["hd95"]) for r in rows] == list(table["infection"]["hd95"])
    json.loads(json.dumps(block, allow_nan=False))


# ---- averages --------------------------------------------------------------------------------------------------------


class Slope:
    """A network of one weight: logits rise from left to right; the answer for the whole image is the first of them."""

    def apply(self, variables, image, *, train):
        assert not train
        slope = jnp.arange(1, 1 + image.shape[2], dtype=jnp.float32)[None, None, :, None]
        logits = variables["params"]["w"] * image * slope
        return {"masks": logits, "covid19": logits[:, 0, 0, 0]}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_flips_and_ensembles_average_probabilities():
    image = jax.random.normal(jax.random.key(0), (2, 4, 6, 1))
    one, two = {"params": {"w": jnp.float32(0.3)}}, {"params": {"w": jnp.float32(-1.0)}}
    plain = [Slope().apply(v, image, train=False) for v in (one, two)]
    mirrored = Slope().apply(one, image[:, :, ::-1], train=False)
    back = {"masks": mirrored["masks"][:, :, ::-1], "covid19": mirrored["covid19"]}
    flipped = averaging.Flipped(Slope()).apply(one, image, train=False)
    both = {"params": (one["params"], two["params"])}
    mean = averaging.Ensemble((Slope(), Slope())).apply(both, image, train=False)
    for name in ("masks", "covid19"):
        np.testing.assert_allclose(
            sigmoid(flipped[name]), (sigmoid(plain[0][name]) + sigmoid(back[name])) / 2, atol=1e-6
        )
        np.testing.assert_allclose(sigmoid(mean[name]), sum(sigmoid(x[name]) for x in plain) / 2, atol=1e-6)
    extreme = averaging.mean_logits(jnp.array([[-300.0, 300.0], [-310.0, 300.0]]))
    np.testing.assert_allclose(extreme, [-300 - np.log(2), 300], rtol=1e-5)
    logits = jax.random.normal(jax.random.key(1), (3, 200)) * 25
    portable = averaging.portable_mean_logits(logits)
    np.testing.assert_allclose(portable, averaging.mean_logits(logits), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def val(finished) -> dict:
    """What the finished run's evaluation on Val says."""
    return evaluate.evaluate(config_file.load(finished), finished, split="val", checkpoint="latest")


def test_threshold_of_val_is_used_on_test(finished, val, capsys):
    config = config_file.load(finished)
    test = evaluate.evaluate(config, finished, split="test", checkpoint="latest")
    assert test["detection"]["threshold"] == val["detection"]["threshold"]
    assert test["detection"]["threshold_from"] == f"chosen in {finished / 'eval/val/metrics.json'}"
    assert test["gated"]["threshold"] == val["gated"]["threshold"] == val["detection"]["threshold"]
    assert [x["gated"]["threshold_chosen_on_these_images"] for x in (val, test)] == [True, False]
    assert "outlines (P1): HD95" in capsys.readouterr().out
    path, read = finished / "eval" / "val" / "metrics.json", functools.partial(Rule.of_val, answers=False, source="")
    settings = rule_settings(config, step=val["checkpoint_step"])
    assert read(path, settings).threshold == val["detection"]["threshold"]
    for other in ({"checkpoint_step": 3}, {"flips": True}, {"threshold": 0.25}, {"members": [{}]}):
        assert read(path, settings | other) is None
    assert read(path.parent / "nothing.json", settings) is None


def test_rule_of_val_goes_with_the_network(finished, val, tmp_path):
    """Into what predicts and serves, and where a network is scored that has no evaluation on Val beside it."""
    network = loading.load(config_file.load(finished), finished, checkpoint="latest")
    share = val["detection"]["threshold"]
    assert network.rule == Rule("image", share, "chosen on val")
    network = dataclasses.replace(network, rule=Rule("image", share + 0.125, "kept"))
    kept = evaluate.evaluate_predictor(network, tmp_path, split="test")
    assert (kept["detection"]["threshold"], kept["detection"]["threshold_from"]) == (share + 0.125, "kept")


def evaluate_runs(runs, workdir) -> int:
    flags = commands.Flags(config_file.load(runs[0]), workdir=str(workdir), runs=tuple(str(r) for r in runs))
    return commands.execute("evaluate", flags)


def test_runs_are_averaged(finished, val, tmp_path, capsys):
    """The mean of a run and itself is the run."""
    assert evaluate_runs([finished, finished], tmp_path / "mean") == 0
    mean = json.loads((tmp_path / "mean/eval/val/metrics.json").read_text())
    assert mean["members"] == [{"workdir": str(finished), "checkpoint_step": 6}] * 2
    assert mean["P1"]["accuracy"]["mean"] == pytest.approx(val["P1"]["accuracy"]["mean"], abs=1e-3)
    assert "mean of 2 runs at steps 6, 6" in capsys.readouterr().out
    assert evaluate_runs([finished, finished], finished) == 1
    assert "is the folder of a run" in capsys.readouterr().err


def test_runs_of_other_images_are_not_averaged(finished):
    one = loading.load(config_file.load(finished), finished, checkpoint="latest")
    config = config_file.load(finished)
    config.dataset.image_size = 32
    other = dataclasses.replace(one, config=config)
    with pytest.raises(UserError, match=r"and b cannot be averaged: config.dataset.image_size is 256 and 32"):
        loading.ensemble([one, other], [finished, pathlib.Path("b")])


def test_flips_are_evaluated(finished, val):
    config = config_file.load(finished)
    config.eval.flips = True
    result = evaluate.evaluate(config, finished, split="val", checkpoint="latest")
    assert result["flips"]
    assert result["calibration"] != val["calibration"]
    assert result["P1"]["accuracy"]["mean"] == pytest.approx(val["P1"]["accuracy"]["mean"], abs=0.1)
