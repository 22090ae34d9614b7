"""What a paper says beyond mean overlaps: outlines, lesion size, severity, detection, calibration, thresholds.

The columns of per_image.py and the histograms of the device become blocks of `metrics.json`; called by evaluate.py.
Intervals `ci95` are those of bootstrap.py.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from jaxunet.data.examples import Split
from jaxunet.evaluation.per_image import COUNTS, Columns
from jaxunet.scoring import bootstrap, outlines, protocols
from jaxunet.scoring.bootstrap import RESAMPLES, auc, mean, pearson, spearman, value
from jaxunet.scoring.counts import PROBABILITY_UNIT, THRESHOLDS
from jaxunet.scoring.detection import PROBABILITY, Rule, gate

_BINS = 10  # of the reliability curve, equally wide
Block = dict[str, Any]


def analyse(columns: Columns, histogram: np.ndarray, data: Split, *, share_of: str, rule: Rule | None) -> Block:
    """All blocks of one target.

    Args:
      columns: of `per_image.tabulate`; lesion size, severity and detection need its shares, which only infection has.
      histogram: int [N, 3, 20], see `counts.histogram`.
      data: the images.
      share_of: what the shares are of, "lung" or "image".
      rule: gives the threshold above which an image counts as COVID-19; None chooses it on these images.

    Returns:
      `surface`, `calibration`, `threshold_sweep`, and `by_lesion_size`, `severity`, `detection`, `gated` where they
      exist.
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
    return result | {
        "calibration": calibration(histogram, covid),
        "threshold_sweep": threshold_sweep(histogram, covid),
    }


def surface_summary(columns: Columns, covid: np.ndarray) -> Block:
    """HD95 and surface Dice, mean over the images of P1 and of P3, and how many of them fall under the empty rules."""
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
    """Dice, IoU and HD95 by quarter of the images, ranked by the true lesion's area in pixels.

    A group holds areas from its `from_pixels` up to, and not including, the next one's; the last one all above.
    """
    area = columns["tp"] + columns["fn"]
    edges = np.quantile(area, [0, 0.25, 0.5, 0.75, 1])
    group = np.searchsorted(edges[1:4], area, side="right")
    groups = []
    for i in range(4):
        chosen = group == i
        means = {name: mean(columns[name][chosen]) for name in ("dice", "iou", "hd95")} if chosen.any() else {}
        groups.append(
            {"from_pixels": float(edges[i]), "to_pixels": float(edges[i + 1]), "n": int(chosen.sum())} | means
        )
    return {"edges_pixels": edges.tolist(), "groups": groups}


# ---- severity --------------------------------------------------------------------------------------------------------


def severity(truth: np.ndarray, predicted: np.ndarray, covid: np.ndarray, *, share_of: str) -> Block:
    """Error and correlation of the infected share, over COVID-19 images and over all.

    Args:
      truth, predicted: float [N], shares in [0, 1].
      covid: bool [N].
      share_of: "lung" or "image".
    """
    result: Block = {"share_of": share_of}
    for name, chosen in (("covid", covid), ("all", np.ones_like(covid))):
        t, p = truth[chosen], predicted[chosen]
        if len(t):
            result[name] = {
                "n": len(t),
                "truth": mean(t),
                "predicted": mean(p),
                "bias": mean(p - t),
                "absolute_error": mean(np.abs(p - t)),
                "pearson": value(functools.partial(pearson, t, p), len(t)),
                "spearman": value(functools.partial(spearman, t, p), len(t)),
            }
    return result


# ---- detection -------------------------------------------------------------------------------------------------------


def detection(values: np.ndarray, covid: np.ndarray, controls: dict[str, np.ndarray], rule: Rule) -> Block:
    """How well `rule` tells COVID-19 images from the others.

    Args:
      values: float [N], in [0, 1], what the rule decides by.
      covid: bool [N].
      controls: name of another class -> bool [N], its images.
      rule: the decision.
    """
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
    """The protocols with the decision applied: an image that is not called COVID-19 is scored as if predicted blank.

    Args:
      columns: as of `analyse`.
      called: bool [N], what `rule` decided.
      covid: bool [N].
      rule: the decision.
      chosen_here: whether its threshold was chosen on these images, which makes the numbers optimistic.

    Returns:
      What `protocols.summarize` gives, and which images were blanked.
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
    """Reliability curve and expected calibration error of the pixels of COVID-19 images and of all.

    ECE (Naeini et al. 2015; Guo et al. 2017, of one class here): mean over pixels of |observed share - mean
    probability| of their bin, the bins being ten of equal width. Probabilities are rounded to 2^-14, so it is exact to
    3e-5. The interval is over images, since pixels of one image are not independent.

    Args:
      histogram: int [N, 3, 20], see `counts.histogram`.
      covid: bool [N].
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
    """Dice of P1, P2 and P3 at each of `metrics.THRESHOLDS`, exact, with intervals; arguments as of `analyse`."""
    above = histogram[:, :2].astype(np.int64)[..., ::-1].cumsum(axis=-1)[..., ::-1]
    fp, tp = above[:, 0, 1:], above[:, 1, 1:]
    fn = above[:, 1, :1] - tp
    counts = np.stack([tp, fp, fn, above[:, 0, :1] - fp], axis=-1)  # [N, 19, 4]
    result: Block = {"thresholds": list(THRESHOLDS)}
    for protocol in ("P1", "P2", "P3"):
        chosen = counts[protocols.protocol_images(protocol, covid)]
        if not len(chosen):
            continue
        drawn = bootstrap.times_drawn(len(chosen), RESAMPLES)
        if protocol in protocols.POOLED:
            dice = _dice(chosen.sum(axis=0))
            pooled = np.rint(drawn @ chosen.reshape(len(chosen), -1).astype(np.float64)).astype(np.int64)
            resampled = _dice(pooled.reshape(RESAMPLES, -1, 4))
        else:
            dice = _dice(chosen).mean(axis=0)
            resampled = drawn @ _dice(chosen) / len(chosen)
        best = int(np.argmax(dice))
        result[protocol] = {
            "dice": dice.tolist(),
            "ci95": np.percentile(resampled, (2.5, 97.5), axis=0).T.tolist(),
            "best": {"threshold": THRESHOLDS[best], "dice": float(dice[best])},
        }
    return result


def _dice(counts: np.ndarray) -> np.ndarray:
    """int [..., 4] -> [...], by the same rule for empty masks as everywhere."""
    return protocols.ratios(counts.reshape(-1, 4))["dice"].reshape(counts.shape[:-1])


# ---- in words --------------------------------------------------------------------------------------------------------


def lines(block: Block) -> list[str]:
    """A line about each block that `block` has."""
    text = []
    if "P1" in block["surface"]:
        p1 = block["surface"]["P1"]
        near = ", ".join(f"{p1[k]['mean']:.4f} at {k[13:-2]} px" for k in p1 if k.startswith("surface_dice"))
        text.append(f"outlines (P1): HD95 {_words(p1['hd95'], 2)} px; surface Dice {near}")
    if "by_lesion_size" in block:
        groups = [g for g in block["by_lesion_size"]["groups"] if g["n"]]
        dice = " / ".join(f"{g['dice']['mean']:.3f}" for g in groups)
        edges = " / ".join(f"{g['from_pixels']:.0f}" for g in groups[1:])
        text.append(
            f"lesion size (P1): Dice {dice} by quarter of the images, from small to large, cut at {edges} pixels"
        )
    if "covid" in block.get("severity", {}):
        s = block["severity"]["covid"]
        text.append(
            f"severity: infected share of the {block['severity']['share_of']} of COVID-19 images is off by "
            f"{_words(s['absolute_error'])}, bias {s['bias']['mean']:+.4f}; Pearson {_words(s['pearson'], 3)}, "
            f"Spearman {_words(s['spearman'], 3)}"
        )
    if "detection" in block:
        d = block["detection"]
        text.append(
            f"detection: ROC AUC {_words(d['auc'])}; {d['score_is']} above {d['threshold']:.4f} "
            f"({d['threshold_from']}): "
            f"sensitivity {_words(d['sensitivity'], 3)}, specificity {_words(d['specificity'], 3)}"
        )
    if "gated" in block:
        g = block["gated"]
        scores = "; ".join(f"{p} Dice {_words(g[p]['dice'])}, IoU {_words(g[p]['iou'])}" for p in ("P1", "P2", "P3"))
        here = ", chosen on these images" if g["threshold_chosen_on_these_images"] else ""
        text.append(
            f"gated (not above {g['threshold']:.4f}{here}: scored as if predicted blank, "
            f"{g['blanked']['n']} of {g['P3']['dice']['n']} images, {g['blanked']['covid']} COVID-19): {scores}"
        )
    ece = ", ".join(
        f"{_words(block['calibration'][k]['ece'])} on {k} images" for k in ("covid", "all") if k in block["calibration"]
    )
    text.append(f"calibration: ECE {ece}")
    best = [(p, block["threshold_sweep"][p]["best"]) for p in ("P1", "P2", "P3") if p in block["threshold_sweep"]]
    best_words = ", ".join(f"{p} Dice {b['dice']:.4f} at {b['threshold']:g}" for p, b in best)
    text.append(f"thresholds, best on this split: {best_words}")
    return text


def _words(number: Block, digits: int = 4) -> str:
    value = number.get("mean", number.get("value"))
    if value is None:
        return "undefined"
    interval = number["ci95"]
    return f"{value:.{digits}f}" + (f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else "")
