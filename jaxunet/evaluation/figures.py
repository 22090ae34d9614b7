"""Pictures of an evaluation: predictions beside the truth, and charts."""

import pathlib
from collections.abc import Mapping

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from jaxunet.core.pictures import painted, save_figure
from jaxunet.scoring import protocols
from jaxunet.scoring.bootstrap import estimate

matplotlib.use("Agg")


def comparison_bars(systems: dict[str, dict], names: Mapping[str, str], words: str, path: pathlib.Path) -> None:
    """Writes one group of bars per metric, one bar per system, whiskers from `ci95`. `systems`: name -> metric ->
    `{"mean", "ci95"}`; `names`: metric -> its printed name; `words`: label of the axis."""
    figure, axes = plt.subplots(figsize=(10, 4.2), layout="constrained")
    width, at = 0.8 / len(systems), np.arange(len(names))
    for i, (system, summary) in enumerate(systems.items()):
        means = np.array([summary[metric]["mean"] for metric in names])
        whiskers = np.abs(np.array([summary[metric]["ci95"] for metric in names]).T - means)
        where = at + (i - (len(systems) - 1) / 2) * width
        bars = axes.bar(where, means, 0.92 * width, yerr=whiskers, label=system, error_kw={"lw": 1, "capsize": 2})
        axes.bar_label(bars, [f"{mean:.3f}" for mean in means], fontsize=8, padding=2)
    axes.set(xticks=at, xticklabels=list(names.values()), ylim=(0, 1.08), ylabel=words)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=4, frameon=False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    save_figure(figure, path, dpi=110)


def side_by_side(
    images: np.ndarray,
    truths: np.ndarray,
    predicted: dict[str, tuple[np.ndarray, np.ndarray]],
    captions: list[str],
    path: pathlib.Path,
) -> None:
    """Writes one row per image: the X-ray with the true mask, then hits, false alarms and misses of each system.

    images uint8 [K, H, W]; truths bool [K, H, W]; predicted: system -> (masks bool [K, H, W], Dice [K]); K captions.
    """
    k, columns = len(images), 1 + len(predicted)
    figure, axes = plt.subplots(k, columns, figsize=(2.1 * columns, 2.3 * k), layout="constrained", squeeze=False)
    for row, caption in enumerate(captions):
        axes[row, 0].imshow(painted(images[row], truths[row], truths[row]))
        axes[row, 0].set_title(caption, fontsize=8)
        for column, (masks, dice) in enumerate(predicted.values(), 1):
            axes[row, column].imshow(painted(images[row], truths[row], masks[row]))
            axes[row, column].set_title(f"Dice {dice[row]:.3f}", fontsize=8)
    for column, name in enumerate(["truth", *predicted]):
        axes[-1, column].set_xlabel(name, fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.suptitle("hits green, false alarms red, misses blue", fontsize=9)
    save_figure(figure, path, dpi=100)


def analysis(result: dict, columns: Mapping[str, np.ndarray], covid: np.ndarray, path: pathlib.Path) -> None:
    """Reliability curve; Dice by threshold; Dice by size of the lesion; predicted infected share by true share.
    `result`: the block of one target in `metrics.json`; `columns`: of its images, see `per_image.tabulate`; `covid`
    bool [N]."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 8.5), layout="constrained")
    curve, sweep, size, severity = axes.flat
    curve.plot([0, 1], [0, 1], color="tab:gray", lw=1, ls=":")
    positive = result.get("positive_class", "COVID-19")
    for name, label in (("covid", protocols.images(positive)), ("all", "all images")):
        if name in result["calibration"] and (positive or name == "all"):
            block = result["calibration"][name]
            pairs = zip(block["mean_probability"], block["observed_share"], strict=True)
            points = [pair for pair in pairs if pair[0] is not None]
            label = f"{label}, ECE {block['ece']['value']:.4f}"
            curve.plot(*zip(*points, strict=True), marker="o", ms=4, label=label)
    curve.set(xlabel="predicted probability", ylabel="share of pixels that are positive", title="Reliability")
    thresholds = result["threshold_sweep"]["thresholds"]
    for protocol in ("P1", "P2", "P3"):
        if protocol in result["threshold_sweep"] and protocol in protocols.in_words(positive):
            block = result["threshold_sweep"][protocol]
            (line,) = sweep.plot(thresholds, block["dice"], label=protocol)
            sweep.fill_between(thresholds, *zip(*block["ci95"], strict=True), alpha=0.2)
            if "gated" in result:
                height = estimate(result["gated"][protocol]["dice"])
                style = {"marker": "D", "color": line.get_color(), "ls": "", "mec": "black"}
                sweep.plot(result["threshold"], height, label=f"{protocol} gated, {height:.3f}", **style)
    sweep.axvline(result["threshold"], color="tab:gray", lw=1, ls=":")
    sweep.set(xlabel="threshold", ylabel="Dice", title="Dice by threshold, 95 % intervals", ylim=(0, 1))
    area = columns["tp"] + columns["fn"]
    drawn = area > 0
    size.scatter(area[drawn], columns["dice"][drawn], s=8, alpha=0.5, label="one image")
    groups = [g for g in result.get("by_lesion_size", {}).get("groups", []) if g["n"]]
    if groups:
        edges = [g["from_pixels"] for g in groups] + [groups[-1]["to_pixels"]]
        means = [g["dice"]["mean"] for g in groups]
        size.stairs(means, edges, color="tab:red", lw=2, baseline=None, label="mean of each quarter")
    size.set(xlabel="true area, pixels", ylabel="Dice", title="Dice by size", xscale="log", ylim=(-0.02, 1.02))
    if "severity" in result:
        true, predicted = columns["true_share"], columns["predicted_share"]
        for chosen, label in ((covid, positive or "images"), (~covid, "controls")):
            severity.scatter(true[chosen], predicted[chosen], s=8, alpha=0.5, label=label)
        severity.plot([0, 1], [0, 1], color="tab:gray", lw=1, ls=":")
        severity.set(xlabel="true", ylabel="predicted", title=f"Affected share of the {result['severity']['share_of']}")
    else:
        severity.axis("off")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    save_figure(figure, path, dpi=110)


def contact_sheet(pictures: list[Image.Image], columns: int) -> Image.Image:
    """Pictures of equal size in rows of `columns`."""
    w, h = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (w + 6) - 6, rows * (h + 6) - 6), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * (w + 6), i // columns * (h + 6)))
    return sheet
