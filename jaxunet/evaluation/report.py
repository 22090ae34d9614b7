"""The report of an evaluation: one self-contained HTML file with every number, picture and probability.

`report.html` beside this file is the page. Only data are written into it: one JSON block, and one for each image, so
that the page decodes a picture only when it is shown. Called by evaluate.py.
"""

import base64
import io
import json
import math
import pathlib
from typing import Any

import jax
import numpy as np
from PIL import Image

from jaxunet.data.examples import Split
from jaxunet.data.targets import finding
from jaxunet.evaluation.analysis import size_quarters
from jaxunet.prediction.predictor import Predictor
from jaxunet.runs.settings import flatten
from jaxunet.scoring import counts, protocols
from jaxunet.scoring.detection import Rule

TEMPLATE = pathlib.Path(__file__).with_name("report.html")
TOP = 31  # the code of probability 1. Maps in steps of 3.2 % take two thirds of the bytes of maps in steps of 1.6 %.
MAX_PICTURES = 2000  # images whose pictures the page holds at most; at 256 x 256 one takes 10 to 35 KB
_PLACE = "<!-- data -->"
_XRAY = {"format": "WEBP", "quality": 90, "method": 0}
_EXACT = {"format": "WEBP", "lossless": True, "quality": 25, "method": 4}  # more effort: 4 % smaller, twice the time
_SHOWN = 8  # images in a gallery
_CURVES = ("train/loss", "train/dice", "val/P1/dice", "val/P2/dice", "val/P3/dice", "val/gated/P3/dice")
_MAX_POINTS = 300  # of a training curve


def render(
    predictor: Predictor,
    data: Split,
    counts: np.ndarray,
    result: dict[str, Any],
    rows: list[dict],
    *,
    name: str,
    covid19: np.ndarray | None,
) -> str:
    """The page as text. Predicts all images once more, batch by batch. With several processes, all must call it.

    Args:
      counts: int64 [N, C, 4], from the evaluation.
      result: the content of `metrics.json`. The page shows all of it.
      rows: of `metrics.jsonl`; empty for weights that were not trained here.
      name: of the run.
      covid19: float [N], probability of COVID-19. None if the network does not answer that.
    """
    called = np.ones(len(data.ids), bool)
    if covid19 is not None:
        found = result.get("detection")  # absent if the split has no controls
        called = (Rule.from_dict(found, answers=True) if found else predictor.rule).calls(covid19)
    seed = predictor.config.seed
    targets = []
    for c, target in enumerate(predictor.targets):
        has_lesion = counts[:, c, [0, 2]].sum(axis=1) > 0
        ranked = data.positive if target == finding(predictor.records) else has_lesion
        alarms = called if c == 0 else np.ones_like(called)
        targets.append(_describe(target, counts[:, c], ranked, alarms, seed=seed))
    stored = _pictures_to_store(len(data.ids), targets, seed=seed)
    sweeps, pictures = _predict(predictor, data, counts, stored)
    page = {
        "run": name,
        "network": predictor.config.model.name,
        "parameters": sum(x.size for x in jax.tree.leaves(predictor.variables["params"])),
        "best_step": predictor.best_step,
        "result": result,
        "protocols": protocols.in_words(data.positive_class),
        "positive": data.positive_class,
        "images": protocols.images(data.positive_class),
        "config": flatten(predictor.config),
        "curves": _curves(rows),
        "evaluated_epoch": next((row["epoch"] for row in rows if row["step"] == predictor.step), None),
        "threshold_code": threshold_code(predictor.threshold),
        "top": TOP,
        "ids": data.ids,
        "covid19": None if covid19 is None else [round(float(p), 4) for p in covid19],
        "classes": [data.classes[label] for label in data.labels],
        "pictures": len(stored),
        "targets": [target | sweep for target, sweep in zip(targets, sweeps, strict=True)],
    }
    blocks = [_block("data", page), *(_block(f"image-{i}", picture) for i, picture in pictures.items())]
    before, after = TEMPLATE.read_text(encoding="utf-8").split(_PLACE)
    return "".join([before, *blocks, after])


# ---- quantized probabilities -----------------------------------------------------------------------------------------


def threshold_code(threshold: float) -> int:
    """The largest code that is not positive at `threshold`, in (0, 1): 15 at 0.5."""
    return int(TOP * threshold)


def quantize(logits: np.ndarray, threshold: float) -> np.ndarray:
    """uint8 in [0, TOP], of the shape of `logits`: TOP x the probability, rounded to the nearest code on its side of
    `threshold`. So `quantize(logits, t) > threshold_code(t)` equals `counts.positive(logits, t)` in every pixel."""
    code = threshold_code(threshold)
    nearest = np.rint(counts.sigmoid(np.asarray(logits, np.float64), of=TOP))
    positive = np.asarray(counts.positive(logits, threshold))
    return np.where(positive, np.fmax(nearest, code + 1), np.fmin(nearest, code)).astype(np.uint8)


def counts_per_code(quantized: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """int64 [TOP, 4]: row k has tp, fp, fn, tn if codes above k are positive, from uint8 and bool [H, W]."""
    histogram = np.bincount((quantized + (TOP + 1) * truth).ravel(), minlength=2 * (TOP + 1)).reshape(2, TOP + 1)
    tn, fn = histogram.cumsum(axis=1)[:, :-1]
    return np.stack([truth.sum() - fn, (~truth).sum() - tn, fn, tn], axis=-1)


def _predict(
    predictor: Predictor, data: Split, counts: np.ndarray, stored: set[int]
) -> tuple[list[dict], dict[int, list]]:
    """Predicts all images. For each target it returns `sweep`, the mean Dice and IoU over the COVID-19 images (P1) if
    codes above k are positive, for each k; and `recount_differs`, the number of images whose counts differ from
    `counts`.

    For each image in `stored`, it returns its pictures as WebP in base64: the X-ray; the true mask and the probability
    of the first target; the true and the predicted mask of each other target. A mask takes a tenth of a probability's
    bytes.
    """
    code, targets, batch_size = threshold_code(predictor.threshold), predictor.targets, predictor.config.eval.batch_size
    covid = data.positive
    sums, differs = np.zeros((len(targets), 2, TOP)), np.zeros(len(targets), int)
    pictures: dict[int, list] = {}
    for start in range(0, len(data.ids), batch_size):
        masks = predictor.outputs(data.image[start : start + batch_size])["masks"]
        quantized = quantize(masks, predictor.threshold)
        for i, codes in enumerate(quantized, start):
            truth = np.unpackbits(data.arrays["mask"][i], axis=1).astype(bool)
            for c in range(len(targets)):
                per_code = counts_per_code(codes[..., c], truth[..., c])
                differs[c] += not np.array_equal(per_code[code], counts[i, c])
                if covid[i]:
                    ratios = protocols.ratios(per_code)
                    sums[c] += ratios["dice"], ratios["iou"]
            if i in stored:
                exact = [truth[..., 0], codes[..., 0]]
                exact += [mask[..., c] for c in range(1, len(targets)) for mask in (truth, codes > code)]
                pictures[i] = [_encode(data.image[i], **_XRAY), *(_encode(x, **_EXACT) for x in exact)]
    means = (sums / max(covid.sum(), 1)).round(5).tolist()
    sweeps = [
        {"sweep": dict(zip(("dice", "iou"), mean, strict=True)) if covid.any() else None, "recount_differs": int(n)}
        for mean, n in zip(means, differs, strict=True)
    ]
    return sweeps, pictures


# ---- tables and galleries --------------------------------------------------------------------------------------------


def _describe(target: str, counts: np.ndarray, ranked: np.ndarray, called: np.ndarray, *, seed: int) -> dict[str, Any]:
    """The table and the galleries of one target, from its counts [N, 4]. The others are as in `size_groups` and
    `galleries`."""
    groups, names = size_groups(counts[:, 0] + counts[:, 2], ranked)
    table = {"name": target, "counts": counts.tolist(), "groups": groups.tolist(), "group_names": names}
    return table | {"galleries": galleries(counts, groups, called, seed=seed)}


def size_groups(area: np.ndarray, ranked: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Groups images by their true area, int [N] in pixels; `ranked`: see `size_quarters`.

    Returns int [N]: 0 for a blank truth, else the quarter, 1 (smallest) to 4; and names for the five groups.
    """
    groups = np.where(area > 0, 1 + size_quarters(area, ranked)[1], 0) if ranked.any() else np.zeros_like(area)
    names = ["blank truth"]
    for group, words in enumerate(("smallest quarter", "second quarter", "third quarter", "largest quarter"), 1):
        inside = area[groups == group]
        names.append(f"{words}, {inside.min():,} to {inside.max():,} px" if len(inside) else words)
    return groups, names


def galleries(counts: np.ndarray, groups: np.ndarray, called: np.ndarray, *, seed: int) -> list[dict[str, Any]]:
    """The images of each gallery, as `{"title", "images": indices}`; a gallery without images is left out.

    counts int [N, 4]; groups int [N], of `size_groups`; `called` bool [N]: only images called COVID-19 can be false
    alarms.
    """
    dice, fp = protocols.ratios(counts)["dice"], counts[:, 1]
    present = np.flatnonzero(groups > 0)
    ranked = present[np.argsort(-dice[present], kind="stable")]
    n = min(_SHOWN, len(ranked) // 2)
    small = ranked[groups[ranked] == 1]
    alarms = np.flatnonzero((groups == 0) & (fp > 0) & called)
    random = np.random.default_rng(seed).permutation(len(counts))[:_SHOWN]
    chosen = {
        "Best": ranked[:n],
        "Worst": ranked[::-1][:n],
        "Random": random,
        "Small and missed: lowest Dice in the smallest quarter": small[::-1][:_SHOWN],
        "False alarms: largest prediction on blank truth": alarms[np.argsort(-fp[alarms], kind="stable")][:_SHOWN],
    }
    return [{"title": title, "images": images.tolist()} for title, images in chosen.items() if len(images)]


def _pictures_to_store(n: int, targets: list[dict], *, seed: int) -> set[int]:
    """Indices of at most `MAX_PICTURES` of `n` images: first those of the galleries, then others at random."""
    order = [i for target in targets for gallery in target["galleries"] for i in gallery["images"]]
    order += np.random.default_rng(seed).permutation(n).tolist()
    return set(list(dict.fromkeys(order))[:MAX_PICTURES])


def _curves(rows: list[dict]) -> dict[str, list[list[float]]]:
    """Name -> points [epoch, value]. Training curves with too many points become means of neighbours."""
    curves = {}
    for key in _CURVES:
        points = np.array([(row["epoch"], row[key]) for row in rows if key in row])
        if len(points) > _MAX_POINTS and key.startswith("train/"):
            points = np.array([part.mean(axis=0) for part in np.array_split(points, _MAX_POINTS)])
        if len(points):
            curves[key] = points.tolist()
    return curves


# ---- as text ---------------------------------------------------------------------------------------------------------


def _block(name: str, value: Any) -> str:
    """`value` as JSON inside HTML. Without "<", no text in it can end the block or begin a tag."""
    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def _finite(value: Any) -> Any:
    """`value` with None for NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _encode(x: np.ndarray, **options: Any) -> str:
    """uint8 or bool [H, W] (True becomes 255) -> picture in base64."""
    file = io.BytesIO()
    Image.fromarray(x).save(file, **options)
    return base64.b64encode(file.getvalue()).decode()
