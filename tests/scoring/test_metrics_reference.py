"""The reported numbers against a second implementation in float64 NumPy, written from the definitions in README.md."""

import csv
import json
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest

from jaxunet.data import prepared
from jaxunet.evaluation import evaluate
from jaxunet.prediction.predictor import Predictor
from jaxunet.scoring import protocols
from jaxunet.scoring.counts import pixel_counts

CLOSE = 1e-9
METRICS = ("dice", "iou", "accuracy", "precision", "recall", "specificity")


# ---- the second implementation: masks in, numbers out; nothing of jaxunet -------------------------------


def divide(numerator: float, denominator: float, *, both_empty: bool) -> float:
    """README: nothing over nothing is 1 where prediction and truth are both empty, else 0."""
    return numerator / denominator if denominator else float(both_empty)


def reference_scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Metrics of bool masks of one shape, taken as one set of pixels, from their set definitions."""
    t, p = truth.astype(np.float64).ravel(), predicted.astype(np.float64).ravel()
    empty = not truth.any() and not predicted.any()
    return {
        "dice": divide(2 * (t * p).sum(), t.sum() + p.sum(), both_empty=empty),
        "iou": divide(np.minimum(t, p).sum(), np.maximum(t, p).sum(), both_empty=empty),
        "accuracy": float((t == p).mean()),
        "precision": divide((t * p).sum(), p.sum(), both_empty=empty),
        "recall": divide((t * p).sum(), t.sum(), both_empty=empty),
        "specificity": divide(((1 - t) * (1 - p)).sum(), (1 - t).sum(), both_empty=empty),
    }


def reference_summary(truths: np.ndarray, predicted: np.ndarray, covid: np.ndarray) -> dict[str, dict]:
    """P1: mean over COVID-19 images; P2: their pixels pooled; P2_all: all pixels pooled; P3: mean over all images."""
    chosen = {"P1": covid, "P2": covid, "P2_all": np.ones(len(covid), bool), "P3": np.ones(len(covid), bool)}
    summary = {}
    for protocol, which in chosen.items():
        n = int(which.sum())
        if not n:
            continue
        if protocol.startswith("P2"):
            pooled = reference_scores(truths[which], predicted[which])
            summary[protocol] = {m: {"value": pooled[m], "n": n} for m in METRICS}
            continue
        rows = [reference_scores(t, p) for t, p in zip(truths[which], predicted[which], strict=True)]
        values = {m: sorted(row[m] for row in rows) for m in METRICS}
        middle = {m: (values[m][(n - 1) // 2] + values[m][n // 2]) / 2 for m in METRICS}
        summary[protocol] = {
            m: {"mean": sum(values[m]) / n, "median": middle[m], "min": values[m][0], "max": values[m][-1], "n": n}
            for m in METRICS
        }
    blank = [p for t, p in zip(truths, predicted, strict=True) if not t.any()]
    summary["controls"] = {"n": len(blank), "blank_predictions": sum(not p.any() for p in blank)}
    return summary


def assert_same(found: dict, expected: dict) -> None:
    """The same keys, bootstrap intervals aside, and values within 1e-9."""
    assert found.keys() - {"ci95"} == expected.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_same(found[key], value)
        else:
            assert found[key] == pytest.approx(value, abs=CLOSE, rel=0), key


# ---- random masks ---------------------------------------------------------------------------------------


def random_masks(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truths and predictions bool [40, 24, 16], blank, full and of all densities; classes int [40]."""
    rng = np.random.default_rng(seed)
    density = rng.choice([0, 0, 0.002, 0.1, 0.5, 0.9, 1], size=(2, 40, 1, 1))
    truth, predicted = rng.random((2, 40, 24, 16)) < density
    agree = rng.random(40) < 0.3
    predicted[agree] = truth[agree]
    return truth, predicted, rng.integers(0, 3, 40)


@pytest.mark.parametrize("seed", range(8))
def test_random_masks(seed):
    truth, predicted, labels = random_masks(seed)
    logits = np.where(predicted, 2.0, -2.0).astype(np.float32)[..., None]
    counts = pixel_counts(jnp.asarray(logits), jnp.asarray(truth[..., None]), 0.5)[:, 0]
    assert_same(protocols.summarize(np.asarray(counts), labels == 0), reference_summary(truth, predicted, labels == 0))


def test_the_random_masks_hold_every_kind_of_empty():
    pairs = {(bool(t.any()), bool(p.any())) for s in range(8) for t, p in zip(*random_masks(s)[:2], strict=True)}
    assert len(pairs) == 4
    assert any(t.all() for s in range(8) for t in random_masks(s)[0])


@pytest.mark.parametrize("blank", ["truth", "prediction", "both"])
def test_whole_sets_of_blank_masks(blank):
    truth, predicted, labels = random_masks(0)
    truth, predicted = truth & (blank == "prediction"), predicted & (blank == "truth")
    counts = pixel_counts(jnp.where(predicted[..., None], 2.0, -2.0), jnp.asarray(truth[..., None]), 0.5)[:, 0]
    assert_same(protocols.summarize(np.asarray(counts), labels == 0), reference_summary(truth, predicted, labels == 0))


# ---- the whole way: dataset, devices, padding, files ----------------------------------------------------


class BrightPixels:
    """Stands in for a network, so that no pixel is near the threshold: marks what is bright, in some images only."""

    def apply(self, variables: dict, image: jnp.ndarray, *, train: bool) -> dict[str, jnp.ndarray]:
        levels = image * 255
        blank = jnp.rint(levels[:, :1, :1]) % 2 == 1
        return {"masks": jnp.concatenate([jnp.where(blank, -1.0, levels - 120.5), 90.5 - levels], axis=-1)}


def bright_pixels(image: np.ndarray) -> np.ndarray:
    """The same of uint8 [H, W], in integers: bool [H, W, 2]."""
    return np.stack([(image > 120) & (image[0, 0] % 2 == 0), image < 91], axis=-1)


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_writes_the_reference_numbers(split, make_config: Callable, monkeypatch, tmp_path):
    """What TFDS decodes, scored by the reference, is in metrics.json and per_image.csv; the last batch is padded."""
    config = make_config()
    config.dataset.targets, config.eval.overlays, config.eval.report = ("infection", "lung"), 0, False
    predictor = Predictor(config, 6, None, BrightPixels(), {"unused": jnp.zeros(())}, "bright pixels")
    monkeypatch.setattr(evaluate, "load_predictor", lambda *_, **__: predictor)
    evaluate.evaluate(config, tmp_path, split=split, checkpoint="latest")

    examples = list(prepared.open_builder(config.dataset, "infection_all").as_data_source(split))
    truth = np.stack([[e["infection_mask"][..., 0], e["lung_mask"][..., 0]] for e in examples]) > 0
    predicted = np.moveaxis(np.stack([bright_pixels(e["image"][..., 0]) for e in examples]), -1, 1)
    covid = np.array(["COVID-19" in e["id"].decode() for e in examples])
    assert {bool(p.any()) for p in predicted[:, 0]} == {True, False}
    assert {bool(t.any()) for t in truth[:, 0]} == {True, False}

    written = json.loads((tmp_path / "eval" / split / "metrics.json").read_text())
    for i, found in enumerate([written, written["targets"]["lung"]]):
        expected = reference_summary(truth[:, i], predicted[:, i], covid)
        assert_same({key: found[key] for key in expected}, expected)
    rows = list(csv.DictReader((tmp_path / "eval" / split / "per_image.csv").read_text().splitlines()))
    assert len(rows) == 2 * len(examples)
    by_image = {(row["id"], row["target"]): row for row in rows}
    for e, t, p in zip(examples, truth, predicted, strict=True):
        for i, target in enumerate(("infection", "lung")):
            row = by_image[e["id"].decode(), target]
            kinds = {"tp": t[i] & p[i], "fp": p[i] > t[i], "fn": t[i] > p[i], "tn": ~(t[i] | p[i])}
            assert {kind: int(row[kind]) for kind in kinds} == {kind: pixels.sum() for kind, pixels in kinds.items()}
            for name, value in reference_scores(t[i], p[i]).items():
                assert float(row[name]) == pytest.approx(value, abs=CLOSE, rel=0)


# ---- other people's implementations ---------------------------------------------------------------------


def counts_of(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    logits = jnp.where(predicted[..., None], 2.0, -2.0)
    return np.asarray(pixel_counts(logits, jnp.asarray(truth[..., None]), 0.5), np.int64)[:, 0]


def undefined(truth: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """bool [N] per metric: nothing over nothing, but not both masks are empty: 0 here, as asked for there."""
    t, p = truth.reshape(len(truth), -1), predicted.reshape(len(truth), -1)
    rows = {"precision": ~p.any(1) & t.any(1), "recall": ~t.any(1) & p.any(1), "specificity": t.all(1)}
    return {name: rows.get(name, np.zeros(len(t), bool)) for name in METRICS}


@pytest.mark.parametrize("seed", range(8))
def test_crosscheck_segmentation_models_pytorch(seed):
    reason = "pip install '.[crosscheck]' to compare with segmentation_models_pytorch"
    torch = pytest.importorskip("torch", reason=reason)
    theirs = pytest.importorskip("segmentation_models_pytorch.metrics", reason=reason)
    truth, predicted, _ = random_masks(seed)
    p, t = (torch.tensor(mask[:, None].astype(int)) for mask in (predicted, truth))
    stats = [s.double() for s in theirs.get_stats(p, t, mode="binary")]
    counts, odd = counts_of(truth, predicted), undefined(truth, predicted)
    np.testing.assert_array_equal(np.stack([s[:, 0].numpy() for s in stats], -1), counts)
    ours, pooled = protocols.ratios(counts), protocols.ratios(counts.sum(axis=0))
    for metric in METRICS:
        function = getattr(theirs, {"dice": "f1_score", "iou": "iou_score"}.get(metric, metric))
        rows = function(*stats, reduction="none", zero_division=1.0)[:, 0].numpy()
        np.testing.assert_allclose(np.where(odd[metric], 0.0, rows), ours[metric], atol=CLOSE)  # theirs gives 1 there
        np.testing.assert_allclose(function(*stats, reduction="micro").numpy(), pooled[metric], atol=CLOSE)


@pytest.mark.parametrize("seed", range(4))
def test_crosscheck_torchmetrics(seed):
    reason = "pip install '.[crosscheck]' to compare with torchmetrics"
    torch = pytest.importorskip("torch", reason=reason)
    theirs = pytest.importorskip("torchmetrics.functional.classification", reason=reason)
    truth, predicted, _ = random_masks(seed)
    counts = counts_of(truth, predicted)
    ours, pooled = protocols.ratios(counts), protocols.ratios(counts.sum(axis=0))
    settled = truth.any((1, 2)) | predicted.any((1, 2))  # of two blank masks theirs is 0
    p, t = torch.tensor(predicted.astype(int)), torch.tensor(truth.astype(int))
    for metric in METRICS:
        name = {"dice": "f1_score", "iou": "jaccard_index"}.get(metric, metric)
        function = getattr(theirs, f"binary_{name}")
        rows = np.array([float(function(a, b)) for a, b in zip(p, t, strict=True)])
        np.testing.assert_allclose(rows[settled], ours[metric][settled], atol=1e-6)  # it divides in float32
        assert float(function(p.ravel(), t.ravel())) == pytest.approx(float(pooled[metric]), abs=1e-6)
