"""Plots a run: loss, learning rate and validation score over the epochs."""

import pathlib
from typing import Any

import matplotlib.pyplot as plt

from jaxunet.core.pictures import save_figure

_CURVES = {
    "train/dice": ("training", {"color": "tab:blue", "alpha": 0.4}),
    "train/accuracy": ("training", {"color": "tab:blue", "alpha": 0.4}),
    "val/P1/dice": ("validation P1, mean per image", {"marker": "o", "ms": 4}),
    "val/P2/dice": ("validation P2, pooled pixels", {"marker": "o", "ms": 4}),
    "val/accuracy": ("validation", {"marker": "o", "ms": 4}),
}


def learning_curve(rows: list[dict[str, Any]], watched_metric: str, path: pathlib.Path) -> None:
    """Writes the `rows` of `metrics.jsonl` as PNG: loss and learning rate on the left, Dice or accuracy
    (`watched_metric`) on the right."""
    train = [r for r in rows if "train/loss" in r]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    left.plot([r["epoch"] for r in train], [r["train/loss"] for r in train], color="tab:blue")
    left.set(xlabel="epoch", ylabel="training loss", title="Loss")
    rate = left.twinx()
    rate.plot([r["epoch"] for r in train], [r["train/learning_rate"] for r in train], color="tab:gray", ls=":")
    rate.set_ylabel("learning rate (dotted)")
    for key, (label, style) in _CURVES.items():
        points = [(r["epoch"], r[key]) for r in rows if key in r]
        if points:
            right.plot(*zip(*points, strict=True), label=label, **style)
    right.set(xlabel="epoch", ylabel=watched_metric, title=watched_metric, ylim=(0, 1))
    right.grid(alpha=0.3)
    right.legend(loc="lower right")
    save_figure(figure, path, dpi=110)
