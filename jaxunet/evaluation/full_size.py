"""Scores at the files' own size: of the masks that prediction draws, against the true masks as they were drawn.

evaluate.py calls this wherever the files are not of the network's size.
"""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxunet.data.originals import Originals
from jaxunet.evaluation.analysis import surface_summary
from jaxunet.evaluation.per_image import COUNTS, Columns, distance_names
from jaxunet.prediction.prediction import Prediction
from jaxunet.prediction.predictor import Predictor
from jaxunet.scoring import bootstrap, outlines, protocols
from jaxunet.scoring.counts import confusion
from jaxunet.scoring.detection import gate


def tabulate(predictor: Predictor, originals: Originals) -> dict[str, Columns]:
    """Target -> column -> value of each image, in the order of `originals`: predicts every file as `predict` does.

    Columns: `height` and `width` of the file; `COUNTS`; `protocols.METRICS`; `hd95` and the surface Dice at each
    tolerance, in pixels of the file; `hd95_mm`, if a file says the size of its pixels, nan for the others.
    """
    config, targets = predictor.config, predictor.targets
    tolerances, size = config.eval.surface_tolerances, config.eval.batch_size
    names = ("height", "width", *COUNTS, *distance_names(tolerances), "hd95_mm")

    def score(found: Prediction, truth: np.ndarray) -> list[list[float]]:
        rows = []
        spacing = found.xray.spacing_mm
        found = dataclasses.replace(found, gate=False)  # a copy, so that logits of this size live no longer than here
        for c, target in enumerate(targets):
            mask = found.masks[target]
            distances = outlines.surface_metrics(truth[..., c], mask, tolerances)
            mm = outlines.surface_metrics(truth[..., c], mask, (), spacing)[0] if spacing else np.nan
            rows.append([*mask.shape, *confusion(mask, truth[..., c]), *distances, mm])
        return rows

    rows: list[list[list[float]]] = []
    with ThreadPoolExecutor(config.input.threads) as pool:
        for start in range(0, len(originals.ids), size):
            part = range(start, min(start + size, len(originals.ids)))
            xrays, truths = zip(*pool.map(originals.read, part), strict=True)
            fitted = [predictor.fit(originals.ids[i], xray) for i, xray in zip(part, xrays, strict=True)]
            rows += pool.map(score, predictor.predict_fitted(fitted, batch_size=size), truths)
    values = np.array(rows)  # [N, C, columns]
    result = {}
    for c, target in enumerate(targets):
        columns = {n: x for n, x in zip(names, values[:, c].T, strict=True) if not np.isnan(x).all()}
        counts = values[:, c, 2:6].astype(np.int64)
        result[target] = columns | dict(zip(COUNTS, counts.T, strict=True)) | protocols.ratios(counts)
    return result


def summarize(columns: Columns, positive: np.ndarray, called: np.ndarray | None) -> dict[str, Any]:
    """The block of one target.

    Args:
      columns: from `tabulate`.
      positive: bool [N], the images of P1 and P2.
      called: bool [N], which images the rule calls positive; None without a rule.
    """
    counts = np.stack([columns[name] for name in COUNTS], axis=1)
    sides = np.stack([columns["height"], columns["width"]], axis=1).astype(int)
    order = np.argsort(sides.prod(axis=1), kind="stable")
    mm = columns.get("hd95_mm", np.full(len(counts), np.nan))[positive]
    known = mm[np.isfinite(mm)]
    result = {
        "smallest_image": "{}x{}".format(*sides[order[0]]),  # height x width
        "largest_image": "{}x{}".format(*sides[order[-1]]),
        **protocols.summarize(counts, positive, resamples=bootstrap.RESAMPLES),
        "surface": surface_summary(columns, positive),
        "distances": "in pixels of each file" + ("" if len(known) else "; no file says the size of its pixels in mm"),
    }
    if len(known):
        result["hd95_mm"] = bootstrap.mean(known)
    if called is not None:
        result["gated"] = protocols.summarize(gate(counts, called), positive, resamples=bootstrap.RESAMPLES)
    return result


def in_words(block: dict[str, Any], positive: str | None) -> str:
    """The block as a printed line. `positive`: the positive class."""
    low, high = block["smallest_image"], block["largest_image"]
    size = low if low == high else f"{low} to {high}"
    surface = block["surface"].get("P1", {})
    dice = [f"{p} Dice {bootstrap.in_words(block[p]['dice'])}" for p in protocols.in_words(positive) if p in block]
    if "gated" in block:
        dice.append(f"P3 gated {bootstrap.in_words(block['gated']['P3']['dice'])}")
    distance = f"HD95 {bootstrap.in_words(surface['hd95'], '.1f')} {block['distances']}" if surface else ""
    return f"at the files' own size ({size}): {'; '.join(filter(None, [*dice, distance]))}"
