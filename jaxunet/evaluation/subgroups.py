"""Scores of groups of images by what the dataset's table says of them, such as sex, site or age. Called by evaluate.py.

Each value of a column is a group. A column with more than `_VALUES` values, or with fewer than two images per value, is
cut at its quartiles if it has at least `_NUMBERS` numbers, and left out otherwise.
"""

from typing import Any

import numpy as np

from jaxunet.data.examples import Split
from jaxunet.scoring.bootstrap import in_words, mean

_VALUES = 12
_NUMBERS = 8  # two images a quarter
_BLANK = "not stated"


def columns_of(data: Split) -> dict[str, np.ndarray]:
    """The columns of the table, and the class unless the protocols tell classes apart."""
    classes = np.array([data.classes[label] for label in data.labels.tolist()])
    columns = {name: cells for name, cells in data.columns.items() if name != "patient"}  # ids are no group
    return ({"class": classes} if data.positive_class is None and len(data.classes) > 1 else {}) | columns


def groups(cells: np.ndarray) -> dict[str, np.ndarray]:
    """Name of each group -> bool [N], which of the `cells` str [N] are in it; {} if they make no groups."""
    stated = cells != ""
    values = sorted(set(cells[stated].tolist()))
    blank = {} if stated.all() else {_BLANK: ~stated}
    numbers = _numbers(cells)
    many = len(values) > min(_VALUES, stated.sum() / 2)
    if numbers is not None and many and stated.sum() >= _NUMBERS:
        edges = np.quantile(numbers[stated], [0, 0.25, 0.5, 0.75, 1])
        quarter = np.searchsorted(edges[1:4], numbers, side="right")
        names = [f"{low:.12g} to {high:.12g}" for low, high in zip(edges[:-1], edges[1:], strict=True)]
        found = {name: stated & (quarter == i) for i, name in enumerate(names)}
        return {name: chosen for name, chosen in found.items() if chosen.any()} | blank
    if many or len(values) + len(blank) < 2:
        return {}
    if numbers is not None:
        values.sort(key=float)
    return {value: cells == value for value in values} | blank


def _numbers(cells: np.ndarray) -> np.ndarray | None:
    """float64 [N], nan for blank cells; None if a cell is no number."""
    try:
        numbers = np.array([float(cell.replace(",", ".")) if cell else np.nan for cell in cells.tolist()])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers[cells != ""]).all() else None


def summarize(
    columns: dict[str, np.ndarray], dice: np.ndarray, positive: np.ndarray, called: np.ndarray | None
) -> dict[str, Any]:
    """Column -> its groups, as rows.

    Args:
      columns: name -> str [N].
      dice: float [N]. A group's is the mean over its images of P1.
      positive: bool [N], the images of P1.
      called: bool [N], which images are called positive; None gives no sensitivity and specificity.

    Returns:
      For each column that makes groups `[{"group", "n", "dice", "sensitivity", "specificity"}]`, with intervals; what a
      group has no images for is left out. `left_out` names the other columns.
    """
    result: dict[str, Any] = {}
    for column, cells in columns.items():
        rows = []
        for group, chosen in groups(cells).items():
            row: dict[str, Any] = {"group": group, "n": int(chosen.sum())}
            parts = {"dice": (chosen & positive, dice)}
            if called is not None:
                parts |= {"sensitivity": (chosen & positive, called), "specificity": (chosen & ~positive, ~called)}
            row |= {name: mean(values[of].astype(float)) for name, (of, values) in parts.items() if of.any()}
            rows.append(row)
        if rows:
            result[column] = rows
    if left := [name for name in columns if name not in result]:
        result["left_out"] = f"{', '.join(left)}: one value, or too many for groups"
    return result


def lines(block: dict[str, Any]) -> list[str]:
    """One printed line per column."""
    text = []
    for column, rows in block.items():
        if column != "left_out":
            words = []
            for row in rows:
                numbers = [f"{k} {in_words(row[k], '.3f')}" for k in ("dice", "sensitivity", "specificity") if k in row]
                words.append(f"{row['group']} (n = {row['n']}) {', '.join(numbers)}")
            text.append(f"by {column}: {'; '.join(words)}")
    return text
