"""Exact segmentation metrics: integer pixel counts per image from the device, ratios once on the host in float64.

Protocols differ in averaging, and averaging alone moves Dice by 12 points: P1, the mean over the COVID-19 images, is
what the original project and most papers report. All use the same predictions. Empty masks: see `EMPTY_MASK_RULE`.
"""

import numpy as np

from jaxunet.scoring.bootstrap import interval, times_drawn

METRICS = ("dice", "iou", "accuracy", "precision", "recall", "specificity")
PROTOCOLS = {
    "P1": "mean over COVID-19 images",
    "P2": "pooled pixels, COVID-19 images",
    "P2_all": "pooled pixels, all images",
    "P3": "mean over images of all classes",
}
POOLED = ("P2", "P2_all")


def images(positive: str | None) -> str:
    """The images of P1 and P2 in words, by the positive class of the dataset."""
    return f"{positive} images" if positive else "images"


def in_words(positive: str | None) -> dict[str, str]:
    """Protocol -> its meaning. Without a positive class, P3 is P1 and P2_all is P2, and they are left out."""
    if positive is None:
        return {"P1": "mean over images", "P2": "pooled pixels of all images"}
    return {p: words.replace("COVID-19 images", images(positive)) for p, words in PROTOCOLS.items()}


_STATISTICS = ("mean", "median", "min", "max")  # of the others; functions of NumPy
EMPTY_MASK_RULE = (
    "a ratio 0/0 is 1 where ground truth and prediction are both empty, else 0 "
    "(empty prediction on empty truth: Dice 1; any predicted pixel on empty truth: Dice 0)"
)


def ratios(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of `counts` int64 [..., 4] (tp, fp, fn, tn): name -> float64 [...]."""
    tp, fp, fn, tn = np.moveaxis(np.asarray(counts, np.int64), -1, 0)
    empty = (tp + fp + fn) == 0

    def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
        safe = np.maximum(denominator, 1)
        return np.where(denominator > 0, numerator / safe, empty.astype(np.float64))

    return {
        "dice": ratio(2 * tp, 2 * tp + fp + fn),
        "iou": ratio(tp, tp + fp + fn),
        "accuracy": ratio(tp + tn, tp + fp + fn + tn),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "specificity": ratio(tn, tn + fp),
    }


def summarize(counts: np.ndarray, positive: np.ndarray, *, resamples: int = 0) -> dict[str, dict]:
    """The metrics of all protocols, from counts int [N, 4] and the images of P1 and P2, bool [N] (`Split.positive`).

    Returns `{"P1": {"dice": {"mean", "median", "min", "max", "n"}, ...}, "P2": {"dice": {"value", "n"}, ...}, "P2_all",
    "P3", "controls": {"n", "blank_predictions"}}`. With `resamples` bootstrap samples, each mean or value has `"ci95":
    [low, high]`. Protocols without images are left out. `controls` are the images with blank ground truth.
    """
    counts = np.asarray(counts, np.int64)
    result: dict[str, dict] = {}
    for protocol in PROTOCOLS:
        chosen = counts[protocol_images(protocol, positive)]
        if len(chosen):
            result[protocol] = _pooled(chosen) if protocol in POOLED else _averaged(chosen)
            if resamples:
                for name, values in resampled(protocol, chosen, resamples).items():
                    result[protocol][name]["ci95"] = interval(values)
    blank_truth = counts[(counts[:, 0] + counts[:, 2]) == 0]
    result["controls"] = {"n": len(blank_truth), "blank_predictions": int((blank_truth[:, 1] == 0).sum())}
    return result


def protocol_images(protocol: str, positive: np.ndarray) -> np.ndarray:
    """bool [N]: the images of `protocol`."""
    return positive if protocol in ("P1", "P2") else np.ones_like(positive)


def _averaged(counts: np.ndarray) -> dict[str, dict[str, float]]:
    return {
        name: {key: float(getattr(np, key)(values)) for key in _STATISTICS} | {"n": len(values)}
        for name, values in ratios(counts).items()
    }


def _pooled(counts: np.ndarray) -> dict[str, dict[str, float]]:
    pooled = ratios(counts.sum(axis=0, keepdims=True))
    return {name: {"value": float(values[0]), "n": len(counts)} for name, values in pooled.items()}


def resampled(protocol: str, counts: np.ndarray, resamples: int) -> dict[str, np.ndarray]:
    """The metrics of `protocol` on bootstrap samples of its images (Efron 1979): metric -> float64 [resamples].

    Counts are int [N, 4]; [N, K, 4], such as at K thresholds, give [resamples, K]. Samples depend only on the number of
    images: two systems on the same images in the same order get the same samples, so differences of these arrays are
    paired.
    """
    n = len(counts)
    times = times_drawn(n, resamples)
    if protocol in POOLED:
        return ratios(np.rint(np.tensordot(times, counts.astype(np.float64), 1)).astype(np.int64))
    return {name: times @ values / n for name, values in ratios(counts).items()}


def table(summary: dict[str, dict], positive: str | None = "COVID-19") -> str:
    """`summary` as text: one row per protocol and statistic. `positive`: the positive class."""
    width = max(len(m) for m in METRICS) + 1
    names = {"dice": "Dice/F1", "iou": "IoU"}
    lines = [f"{'':34s}" + "".join(f"{names.get(m, m):>{width}s}" for m in METRICS)]
    for protocol, meaning in in_words(positive).items():
        block = summary.get(protocol)
        if not block:
            continue
        n = block[METRICS[0]]["n"]
        lines.append(f"{protocol}: {meaning} (n = {n})")
        for statistic in [s for s in ("value", *_STATISTICS) if s in block[METRICS[0]]]:
            cells = "".join(f"{block[m][statistic]:>{width}.4f}" for m in METRICS)
            lines.append(f"{'pooled' if statistic == 'value' else statistic:>34s}{cells}")
        for words, end in (("95 % interval, from", 0), ("to", 1)):
            if "ci95" in block[METRICS[0]]:
                lines.append(f"{words:>34s}" + "".join(f"{block[m]['ci95'][end]:>{width}.4f}" for m in METRICS))
    controls = summary["controls"]
    if controls["n"]:
        lines.append(f"blank ground truth, predicted blank: {controls['blank_predictions']} of {controls['n']} images")
    return "\n".join(lines)
