"""What the device measured of a split -> every number of every image, and `per_image.csv`. Called by evaluate.py."""

import csv
import dataclasses
import io
from collections.abc import Sequence

import numpy as np

from jaxunet.data.examples import Split
from jaxunet.data.targets import finding, organ
from jaxunet.scoring import outlines, protocols

Columns = dict[str, np.ndarray]  # name -> [N], one value per image
COUNTS = ("tp", "fp", "fn", "tn")


@dataclasses.dataclass(frozen=True)
class Measured:
    """What `split_pass.measure_step` says of the N images of a split, in their order, and C targets.

    Attributes:
      counts: int32 [N, C, 4], pixels: tp, fp, fn, tn.
      histogram: int32 [N, C, 3, 20], see `counts.histogram`.
      mask: uint8 [N, H, W / 8, C], predicted masks, packed bits.
      covid19: float32 [N], probability of COVID-19 for the whole image, of a network that answers that.
    """

    counts: np.ndarray
    histogram: np.ndarray
    mask: np.ndarray
    covid19: np.ndarray | None = None

    def predicted(self, i: int) -> np.ndarray:
        """bool [H, W]: the predicted mask of image `i`, first target."""
        return np.unpackbits(self.mask[i, ..., 0], axis=1).astype(bool)


def tabulate(
    measured: Measured, data: Split, targets: Sequence[str], tolerances: Sequence[float], *, threads: int
) -> dict[str, Columns]:
    """Target -> column -> value of each image, in the order of `data`.

    Columns: `COUNTS` int64; `metrics.METRICS`; `hd95` in pixels and the surface Dice at each tolerance (surface.py); of
    the finding also `true_share` and `predicted_share`, see `infected_shares`, and `covid19_probability` if measured.

    Args:
      measured: of the images of `data`.
      data: with their true masks, one per target.
      targets: the masks.
      tolerances: of the surface Dice, in pixels.
      threads: for the distances.
    """
    truth = data.arrays["mask"]
    result = {}
    for t, target in enumerate(targets):
        counts = measured.counts[:, t].astype(np.int64)
        distances = outlines.of_images(truth[..., t], measured.mask[..., t], tolerances, threads=threads)
        names = ("hd95", *map(surface_dice_name, tolerances))
        columns = dict(zip(COUNTS, counts.T, strict=True)) | protocols.ratios(counts)
        result[target] = columns | dict(zip(names, distances.T, strict=True))
    if name := finding(targets):
        result[name]["true_share"] = infected_shares(truth, targets)
        result[name]["predicted_share"] = infected_shares(measured.mask, targets)
        if measured.covid19 is not None:
            result[name]["covid19_probability"] = measured.covid19.astype(np.float64)
    return result


def surface_dice_name(tolerance: float) -> str:
    """Of the column, such as "surface_dice_2px"."""
    return f"surface_dice_{tolerance:g}px"


def infected_shares(masks: np.ndarray, targets: Sequence[str]) -> np.ndarray:
    """Share of the organ that the finding takes, such as infection of the lung; without masks of it, of the image.

    Only the finding inside the organ counts. Where there is no organ, the share is 0.

    Args:
      masks: packed bits uint8 [N, H, W / 8, C]: all true, or all predicted.
      targets: of the last axis, a finding among them.

    Returns:
      float64 [N], in [0, 1].
    """
    by_name = dict(zip(targets, np.moveaxis(masks, -1, 0), strict=True))
    found = by_name[finding(targets)]
    within = by_name.get(organ(targets), np.full_like(found, 255))
    infected, whole = (np.bitwise_count(bits).sum(axis=(1, 2), dtype=np.int64) for bits in (found & within, within))
    return infected / np.maximum(whole, 1)


def to_csv(table: dict[str, Columns], data: Split) -> str:
    """One row per image and target, sorted by id, exact to the last digit; blank where a column is another target's."""
    names = list(dict.fromkeys(name for columns in table.values() for name in columns))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "class", "target", *names])
    for i in sorted(range(len(data.ids)), key=data.ids.__getitem__):
        for target, columns in table.items():
            cells = [columns[name][i].item() if name in columns else "" for name in names]
            writer.writerow([data.ids[i], data.classes[data.labels[i]], target, *cells])
    return text.getvalue()


def differences_csv(counts: dict[str, np.ndarray], data: Split) -> str:
    """Several systems on the same images, one row per image, those first on which their Dice differs most.

    Columns: id, class, `true_pixels` of the mask, `dice <system>` of each, `difference`: the second minus the first if
    there are two, else the largest minus the smallest.

    Args:
      counts: system -> int [N, 4], in the order of `data`; two systems at least.
      data: the images.
    """
    dice = np.stack([protocols.ratios(c)["dice"] for c in counts.values()], axis=1)
    difference = dice[:, 1] - dice[:, 0] if len(counts) == 2 else np.ptp(dice, axis=1)
    first = next(iter(counts.values())).astype(np.int64)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "class", "true_pixels", *(f"dice {name}" for name in counts), "difference"])
    for i in sorted(range(len(data.ids)), key=lambda i: (-abs(difference[i]), data.ids[i])):
        row = [data.ids[i], data.classes[data.labels[i]], int(first[i, 0] + first[i, 2])]
        writer.writerow([*row, *map(float, dice[i]), float(difference[i])])
    return text.getvalue()
