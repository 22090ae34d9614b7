"""Measures beyond mean overlaps: outlines, lesion size, severity, detection, calibration, thresholds.

Turns the columns of per_image.py and the histograms of the device into blocks of `metrics.json`. Called by evaluate.py.
Each `ci95` is an interval of bootstrap.py. `covid` bool [N] says which of the N images are COVID-19.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from jaxunet.data.examples import Split
from jaxunet.evaluation.per_image import COUNTS, Columns
from jaxunet.scoring import outlines, protocols
from jaxunet.scoring.bootstrap import RESAMPLES, auc, in_words, mean, pearson, spearman, value
from jaxunet.scoring.counts import PROBABILITY_UNIT, THRESHOLDS
from jaxunet.scoring.detection import PROBABILITY, Rule, gate

_BINS = 10  # of the reliability curve, equally wide
Block = dict[str, Any]


def analyse(columns: Columns, histogram: np.ndarray, data: Split, *, share_of: str, rule: Rule | None) -> Block:
    """All blocks of one target: `surface`, `calibration`, `threshold_sweep`; `by_lesion_size`, `severity`, `detection`,
    `gated` where they apply.

    Args:
      columns: of `per_image.tabulate`. Only infection has the shares that severity and detection need.
      histogram: int [N, 3, 20], see `counts.histogram`.
      share_of: what the shares are of, "lung" or "image".
      rule: its threshold decides which images are called COVID-19. None chooses a threshold on these images.
    """
    covid = data.positive
    result = {"surface": surface_summary(columns, covid)}
    if "true_share" in columns:
        if covid.any():
            result["by_lesion_size"] = by_lesion_size({name: values[covid] for name, values in columns.items()})
        result["severity"] = severity(columns["true_share"], columns["predicted_share"], covid, share_of=share_of)
        if covid.any() and not covid.all():
            answered = "covid19_probability" in columns  # by the network, for the whole image
            values = columns["covid19_probability" if answered else "predicted_share"]
            decides = PROBABILITY if answered else share_of
            used = dataclasses.replace(rule, decides=decides) if rule else Rule.chosen(decides, values, covid)
            result["detection"] = detection(values, covid, data.controls, used)
            result["gated"] = gated(columns, used.calls(values), covid, used, chosen_here=rule is None)
    sweep = threshold_sweep(histogram, covid)
    return result | {"calibration": calibration(histogram, covid), "threshold_sweep": sweep}


def surface_summary(columns: Columns, covid: np.ndarray) -> Block:
    """Mean HD95 and surface Dice over the images of P1 and of P3, and how many of these images have empty masks."""
    names = [name for name in columns if name == "hd95" or name.startswith("surface_dice")]
    no_truth, no_prediction = columns["tp"] + columns["fn"] == 0, columns["tp"] + columns["fp"] == 0
    result: Block = {"empty_rule": outlines.EMPTY_RULE}
    for protocol in ("P1", "P3"):
        chosen = protocols.protocol_images(protocol, covid)
        if chosen.any():
            result[protocol] = {name: mean(columns[name][chosen]) for name in names}
            result[protocol]["one_empty"] = int((no_truth ^ no_prediction)[chosen].sum())
            result[protocol]["both_empty"] = int((no_truth & no_prediction)[chosen].sum())
    return result


def by_lesion_size(columns: Columns) -> Block:
    """Dice, IoU and HD95 of each quarter of the images, ranked by the area of the true lesion in pixels.

    A group holds areas from its `from_pixels` up to, but not including, `from_pixels` of the next group.
    """
    area = columns["tp"] + columns["fn"]
    edges, group = size_quarters(area, np.ones(len(area), bool))
    groups = []
    for i, (low, high) in enumerate(zip(edges.tolist(), edges[1:].tolist(), strict=False)):
        chosen = group == i
        means = {name: mean(columns[name][chosen]) for name in ("dice", "iou", "hd95")} if chosen.any() else {}
        groups.append({"from_pixels": low, "to_pixels": high, "n": int(chosen.sum())} | means)
    return {"edges_pixels": edges.tolist(), "groups": groups}


def size_quarters(area: np.ndarray, ranked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the areas int [N], in pixels, at the quartiles of those of the `ranked` images, bool [N] with a True.

    Returns float64 [5]: smallest area, quartiles, largest area; and int [N] in [0, 3]. An area on a limit is in the
    upper quarter.
    """
    edges = np.quantile(area[ranked], [0, 0.25, 0.5, 0.75, 1])
    return edges, np.searchsorted(edges[1:4], area, side="right")


# ---- severity --------------------------------------------------------------------------------------------------------


def severity(truth: np.ndarray, predicted: np.ndarray, covid: np.ndarray, *, share_of: str) -> Block:
    """Error and correlation of the infected shares `truth` and `predicted`, float [N] in [0, 1]."""
    result: Block = {"share_of": share_of}
    for name, chosen in (("covid", covid), ("all", np.ones_like(covid))):
        t, p = truth[chosen], predicted[chosen]
        if len(t):
            errors = {"bias": mean(p - t), "absolute_error": mean(np.abs(p - t))}
            correlations = {f.__name__: value(functools.partial(f, t, p), len(t)) for f in (pearson, spearman)}
            result[name] = {"n": len(t), "truth": mean(t), "predicted": mean(p), **errors, **correlations}
    return result


# ---- detection -------------------------------------------------------------------------------------------------------


def detection(values: np.ndarray, covid: np.ndarray, controls: dict[str, np.ndarray], rule: Rule) -> Block:
    """How well `rule` tells COVID-19 images from the others: `values` float [N], in [0, 1], is the variable that it
    decides by; `controls` are the images of each other class, bool [N]."""
    found = rule.calls(values).astype(float)
    return {
        "score": rule.decides,
        "score_is": rule.variable,
        "auc": value(functools.partial(auc, values, covid), len(values)),
        "threshold": rule.threshold,
        "threshold_from": rule.source,
        "sensitivity": mean(found[covid]),
        "specificity": mean(1 - found[~covid]),
        "specificity_by_class": {name: mean(1 - found[chosen]) for name, chosen in controls.items()},
    }


def gated(columns: Columns, called: np.ndarray, covid: np.ndarray, rule: Rule, *, chosen_here: bool) -> Block:
    """The protocols with the decision applied: an image not called COVID-19 is scored as if it were predicted blank.

    `called` bool [N]: the decisions of `rule`. `chosen_here`: whether its threshold was chosen on these images; the
    scores are then optimistic. Returns the scores of `protocols.summarize`, the rule, and the number of images that
    were blanked.
    """
    counts = gate(np.stack([columns[name] for name in COUNTS], axis=1), called)
    return {
        "rule": f"scored as if predicted blank where the {rule.variable} is not above threshold",
        "threshold": rule.threshold,
        "threshold_from": rule.source,
        "threshold_chosen_on_these_images": chosen_here,
        "blanked": {"n": int((~called).sum()), "covid": int((~called & covid).sum())},
        **protocols.summarize(counts, covid, resamples=RESAMPLES),
    }


# ---- probabilities ---------------------------------------------------------------------------------------------------


def calibration(histogram: np.ndarray, covid: np.ndarray) -> Block:
    """Reliability curve and expected calibration error (ECE) over the pixels of COVID-19 images and of all images.

    The ECE (Naeini et al. 2015; Guo et al. 2017) is the mean over pixels of |observed share - mean probability| of the
    pixel's bin, here of the positive class and in ten bins of equal width. Probabilities are rounded to 2^-14, so it is
    exact to 3e-5. The bootstrap samples images, because the pixels of one image are not independent. `histogram` is int
    [N, 3, 20], see `counts.histogram`.
    """
    per_bin = histogram.reshape(len(histogram), 3, _BINS, -1).sum(axis=-1, dtype=np.int64)
    result: Block = {"bin_edges": (np.arange(_BINS + 1) / _BINS).tolist()}
    for name, chosen in (("covid", per_bin[covid]), ("all", per_bin)):
        if not len(chosen):
            continue
        outside, inside, scaled = np.moveaxis(chosen, 1, 0).astype(np.float64)
        pixels, probability = outside + inside, scaled * PROBABILITY_UNIT

        def ece(times: np.ndarray, gap: np.ndarray = probability - inside, n: np.ndarray = pixels) -> np.ndarray:
            return np.abs(times @ gap).sum(axis=1) / (times @ n).sum(axis=1)

        sums = [x.sum(axis=0) for x in (pixels, probability, inside)]
        shares = [[float(a / b) if b else None for a, b in zip(x, sums[0], strict=True)] for x in sums[1:]]
        result[name] = {
            "ece": value(ece, len(chosen)),
            "pixels": [int(x) for x in sums[0]],
            "mean_probability": shares[0],
            "observed_share": shares[1],
        }
    return result


def threshold_sweep(histogram: np.ndarray, covid: np.ndarray) -> Block:
    """Exact Dice of P1, P2 and P3 at each of `counts.THRESHOLDS`, with intervals. Arguments as for `calibration`."""
    above = histogram[:, :2].astype(np.int64)[..., ::-1].cumsum(axis=-1)[..., ::-1]
    fp, tp = above[:, 0, 1:], above[:, 1, 1:]
    fn = above[:, 1, :1] - tp
    counts = np.stack([tp, fp, fn, above[:, 0, :1] - fp], axis=-1)  # [N, 19, 4]
    result: Block = {"thresholds": list(THRESHOLDS)}
    for protocol in ("P1", "P2", "P3"):
        chosen = counts[protocols.protocol_images(protocol, covid)]
        if not len(chosen):
            continue
        pooled = protocol in protocols.POOLED
        dice = protocols.ratios(chosen.sum(axis=0) if pooled else chosen)["dice"]
        dice = dice if pooled else dice.mean(axis=0)
        resampled = protocols.resampled(protocol, chosen, RESAMPLES)["dice"]
        best = int(np.argmax(dice))
        result[protocol] = {
            "dice": dice.tolist(),
            "ci95": np.percentile(resampled, (2.5, 97.5), axis=0).T.tolist(),
            "best": {"threshold": THRESHOLDS[best], "dice": float(dice[best])},
        }
    return result


# ---- in words --------------------------------------------------------------------------------------------------------


def lines(block: Block, positive: str | None = "COVID-19") -> list[str]:
    """One printed line for each block of `analyse` that `block` has. `positive`: the positive class."""
    text = []
    if p1 := block["surface"].get("P1"):
        near = ", ".join(f"{p1[k]['mean']:.4f} at {k[13:-2]} px" for k in p1 if k.startswith("surface_dice"))
        text.append(f"outlines (P1): HD95 {in_words(p1['hd95'], '.2f')} px; surface Dice {near}")
    if "by_lesion_size" in block:
        groups = [g for g in block["by_lesion_size"]["groups"] if g["n"]]
        dice = " / ".join(f"{g['dice']['mean']:.3f}" for g in groups)
        edges = " / ".join(f"{g['from_pixels']:.0f}" for g in groups[1:])
        text.append(f"lesion size (P1): Dice {dice} by quarter, smallest to largest lesions; limits {edges} pixels")
    if s := block.get("severity", {}).get("covid"):
        text.append(
            f"severity: affected share of the {block['severity']['share_of']}, {protocols.images(positive)}: absolute "
            f"error "
            f"{in_words(s['absolute_error'])}, bias {s['bias']['mean']:+.4f}, Pearson {in_words(s['pearson'], '.3f')}, "
            f"Spearman {in_words(s['spearman'], '.3f')}"
        )
    if d := block.get("detection"):
        text.append(
            f"detection: ROC AUC {in_words(d['auc'])}; {d['score_is']} above {d['threshold']:.4f} "
            f"({d['threshold_from']}): sensitivity {in_words(d['sensitivity'], '.3f')}, "
            f"specificity {in_words(d['specificity'], '.3f')}"
        )
    if g := block.get("gated"):
        gated_scores = (f"{p} Dice {in_words(g[p]['dice'])}, IoU {in_words(g[p]['iou'])}" for p in ("P1", "P2", "P3"))
        here = ", chosen on these images" if g["threshold_chosen_on_these_images"] else ""
        text.append(
            f"gated: {g['blanked']['n']} of {g['P3']['dice']['n']} images ({g['blanked']['covid']} of them {positive}) "
            f"are not above {g['threshold']:.4f}{here} and are scored as if predicted blank: {'; '.join(gated_scores)}"
        )
    kinds = {"covid": protocols.images(positive), "all": "all images"} if positive else {"all": "all images"}
    curves = {words: block["calibration"][k]["ece"] for k, words in kinds.items() if k in block["calibration"]}
    text.append("calibration: ECE " + ", ".join(f"{in_words(ece)} on {words}" for words, ece in curves.items()))
    best = {p: sweep["best"] for p, sweep in block["threshold_sweep"].items() if p != "thresholds"}
    known = protocols.in_words(positive)
    best_words = ", ".join(f"{p} Dice {b['dice']:.4f} at {b['threshold']:g}" for p, b in best.items() if p in known)
    return [*text, f"thresholds, best on this split: {best_words}"]
