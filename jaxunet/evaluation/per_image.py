"""From what the device measured on a split to every number of every image, and to CSV. Called by evaluate.py."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxunet.data.examples import Split
from jaxunet.data.targets import Records, finding, organ
from jaxunet.scoring import outlines, protocols

Columns = dict[str, np.ndarray]  # name -> [N], one value per image
COUNTS = ("tp", "fp", "fn", "tn")


@dataclasses.dataclass(frozen=True)
class Measured:
    """The outputs of `split_pass.measure_step` for the N images of a split, in their order, and C targets.

    Attributes:
      counts: int32 [N, C, 4], pixels: tp, fp, fn, tn.
      histogram: int32 [N, C, 3, 20], see `counts.histogram`.
      mask: uint8 [N, H, W / 8, C], predicted masks, packed bits.
      covid19: float32 [N], probability of COVID-19 for the whole image. None if the network does not answer that.
    """

    counts: np.ndarray
    histogram: np.ndarray
    mask: np.ndarray
    covid19: np.ndarray | None = None

    def predicted(self, i: int) -> np.ndarray:
        """bool [H, W]: the mask predicted for the first target on image `i`."""
        return np.unpackbits(self.mask[i, ..., 0], axis=1).astype(bool)


def tabulate(
    measured: Measured, data: Split, targets: Records, tolerances: Sequence[float], *, threads: int
) -> dict[str, Columns]:
    """Target -> column -> value of each image, in the order of `data`, which has a true mask for each target.

    Columns: `COUNTS` int64; `protocols.METRICS`; `hd95` in pixels and the surface Dice at each of `tolerances`, in
    pixels (outlines.py). The finding also has `true_share` and `predicted_share`, see `infected_shares`, and
    `covid19_probability` if measured. `threads` compute distances.
    """
    truth = data.arrays["mask"]
    result = {}
    for t, target in enumerate(targets):
        counts = measured.counts[:, t].astype(np.int64)
        distances = outlines.of_images(truth[..., t], measured.mask[..., t], tolerances, threads=threads)
        columns = dict(zip(COUNTS, counts.T, strict=True)) | protocols.ratios(counts)
        result[target] = columns | dict(zip(distance_names(tolerances), distances.T, strict=True))
    if name := finding(targets):
        result[name]["true_share"] = infected_shares(truth, targets)
        result[name]["predicted_share"] = infected_shares(measured.mask, targets)
        if measured.covid19 is not None:
            result[name]["covid19_probability"] = measured.covid19.astype(np.float64)
    return result


def distance_names(tolerances: Sequence[float]) -> tuple[str, ...]:
    """The columns of what `outlines.surface_metrics` returns."""
    return "hd95", *(f"surface_dice_{tolerance:g}px" for tolerance in tolerances)


def infected_shares(masks: np.ndarray, targets: Records) -> np.ndarray:
    """float64 [N], in [0, 1]: the share of the organ's pixels that the finding covers, such as infection of the lung.

    Only the finding inside the organ counts. If the image shows no organ, the share is 0. If no target is an organ, it
    is the share of the image. `masks` uint8 [N, H, W / 8, C], packed bits, true or predicted, of the `targets`.
    """
    by_name = dict(zip(targets, np.moveaxis(masks, -1, 0), strict=True))
    found = by_name[finding(targets)]
    within = by_name.get(organ(targets), np.full_like(found, 255))
    infected, whole = (np.bitwise_count(bits).sum(axis=(1, 2), dtype=np.int64) for bits in (found & within, within))
    return infected / np.maximum(whole, 1)


def to_csv(table: dict[str, Columns], data: Split) -> str:
    """One row per image and target, sorted by id, exact to the last digit. A cell is blank if its target has no such
    column."""
    names = list(dict.fromkeys(name for columns in table.values() for name in columns))
    rows: list[list[Any]] = [["id", "class", "target", *names]]
    for i in sorted(range(len(data.ids)), key=data.ids.__getitem__):
        for target, columns in table.items():
            cells = [columns[name][i].item() if name in columns else "" for name in names]
            rows.append([data.ids[i], data.classes[data.labels[i]], target, *cells])
    return csv_text(rows)


def differences_csv(counts: dict[str, np.ndarray], data: Split) -> str:
    """Several systems on the same images: one row per image, largest difference in Dice first. `counts`: system -> int
    [N, 4].

    Columns: id, class, `true_pixels` of the mask, `dice <system>` for each system, `difference`. With two systems the
    difference is the second minus the first; with more, the largest minus the smallest.
    """
    dice = np.stack([protocols.ratios(c)["dice"] for c in counts.values()], axis=1)
    difference = dice[:, 1] - dice[:, 0] if len(counts) == 2 else np.ptp(dice, axis=1)
    first = next(iter(counts.values())).astype(np.int64)
    rows: list[list[Any]] = [["id", "class", "true_pixels", *(f"dice {name}" for name in counts), "difference"]]
    for i in sorted(range(len(data.ids)), key=lambda i: (-abs(difference[i]), data.ids[i])):
        row = [data.ids[i], data.classes[data.labels[i]], int(first[i, 0] + first[i, 2])]
        rows.append([*row, *map(float, dice[i]), float(difference[i])])
    return csv_text(rows)


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """The rows as CSV, with lines ending in "\\n"."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
