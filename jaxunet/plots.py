"""Pictures of a run: learning curves, and predictions beside the truth."""

import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw

_HIT, _FALSE, _MISSED = (70, 190, 90), (230, 70, 60), (60, 130, 240)


def learning_curve(rows: list[dict], path: pathlib.Path) -> None:
    """Loss and learning rate on the left, Dice on the right, over epochs, from the rows of `metrics.jsonl`."""
    train = [r for r in rows if "train/loss" in r]
    val = [r for r in rows if "val/P1/dice" in r]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    left.plot([r["epoch"] for r in train], [r["train/loss"] for r in train], color="tab:blue")
    left.set(xlabel="epoch", ylabel="training loss", title="Loss")
    rate = left.twinx()
    rate.plot([r["epoch"] for r in train], [r["train/learning_rate"] for r in train], color="tab:gray", ls=":")
    rate.set_ylabel("learning rate (dotted)")
    right.plot(
        [r["epoch"] for r in train], [r["train/dice"] for r in train], color="tab:blue", alpha=0.4, label="training"
    )
    names = {"P1/dice": "validation P1, mean of COVID-19 images", "P2/dice": "validation P2, pooled pixels"}
    for name, label in names.items():
        right.plot([r["epoch"] for r in val], [r[f"val/{name}"] for r in val], marker="o", ms=4, label=label)
    right.set(xlabel="epoch", ylabel="Dice", title="Dice", ylim=(0, 1))
    right.grid(alpha=0.3)
    right.legend(loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def overlay(image: np.ndarray, truth: np.ndarray, predicted: np.ndarray, caption: str) -> Image.Image:
    """X-ray, and the same with hits green, false alarms red and misses blue.

    Args:
      image: uint8 [H, W].
      truth, predicted: bool [H, W].
      caption: one line below.
    """
    h, w = image.shape
    gray = np.repeat(image[..., None], 3, axis=-1).astype(np.float32)
    painted = gray.copy()
    for where, colour in ((truth & predicted, _HIT), (predicted & ~truth, _FALSE), (truth & ~predicted, _MISSED)):
        painted[where] = 0.6 * gray[where] + 0.4 * np.array(colour, np.float32)
    picture = Image.new("RGB", (2 * w + 4, h + 18), "white")
    picture.paste(Image.fromarray(gray.astype(np.uint8)), (0, 0))
    picture.paste(Image.fromarray(painted.astype(np.uint8)), (w + 4, 0))
    ImageDraw.Draw(picture).text((4, h + 3), caption, fill="black")
    return picture


def contact_sheet(pictures: list[Image.Image], columns: int) -> Image.Image:
    """Equal pictures in rows of `columns`."""
    w, h = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (w + 6) - 6, rows * (h + 6) - 6), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * (w + 6), i // columns * (h + 6)))
    return sheet
