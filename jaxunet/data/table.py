"""The table of a user's folder, such as images.csv: any name, separator, byte-order mark and encoding."""

import csv
import io
import pathlib

from jaxunet.core.errors import UserError, some
from jaxunet.data.dataset_spec import FolderLayout

_SEPARATORS = ",;\t|"


def read(path: pathlib.Path) -> tuple[list[str], list[dict[str, str]]]:
    """The names of the columns, and the rows. Raises UserError if it is not a table."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error
    text = ""
    for encoding in ("utf-16",) if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "cp1252", "latin-1"):
        try:
            text = raw.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    header = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=header.count)
    try:
        lines = list(csv.reader(io.StringIO(text), delimiter=separator))
    except csv.Error as error:
        raise UserError(f"{path} is not a table ({error}): save it as CSV.") from error
    lines = [line for line in lines if any(cell.strip() for cell in line)]
    names = [name.strip() for name in lines[0]] if lines else []
    if not names or len(set(names)) < len(names) or not all(names):
        raise UserError(f"{path} does not begin with a line of column names, all different: add it.")
    if wrong := [str(i) for i, line in enumerate(lines[1:], 2) if len(line) != len(names)]:
        raise UserError(f"{path} has {len(names)} columns, but lines with more or fewer cells: {some(wrong)}.")
    return names, [dict(zip(names, (cell.strip() for cell in line), strict=True)) for line in lines[1:]]


def image_key(cell: str, images: dict[str, str], by_name: dict[str, str]) -> str | None:
    """The key of `images` (name without ending -> name) that a cell stands for. `by_name` is its inverse."""
    cell = cell.replace("\\", "/").removeprefix("./").removeprefix("images/")
    return by_name.get(cell, cell if cell in images else None)


def rows_of(
    folder: pathlib.Path, layout: FolderLayout, images: dict[str, str], faults: list[str], warnings: list[str]
) -> dict[str, dict[str, str]]:
    """Key of `images` -> its row. Appends what is wrong with the table to `faults` and `warnings`."""
    if not (file := layout.table.get("file")):
        return {}
    try:
        names, rows = read(folder / file)
    except UserError as error:
        faults.append(str(error))
        return {}
    wanted = {"image": "image", **layout.table}
    del wanted["file"]
    if lacking := [n for n in (*wanted.values(), *layout.columns) if n not in names]:
        faults.append(f"{folder / file} has no column {', '.join(map(repr, lacking))}: there are {', '.join(names)}.")
        return {}
    by_name = {name: key for key, name in images.items()}
    result: dict[str, dict[str, str]] = {}
    unknown, twice = [], []
    for row in rows:
        key = image_key(row[wanted["image"]], images, by_name)
        if key is None:
            unknown.append(row[wanted["image"]])
        else:
            twice += [images[key]] if key in result else []
            result[key] = row
    if unknown:
        warnings.append(f"{file} has {len(unknown)} rows for images that do not exist: {some(unknown)}.")
    if twice:
        faults.append(f"{file} has several rows for {some(twice)}: leave one each.")
    if lacking := [name for key, name in images.items() if key not in result]:
        faults.append(f"{file} has no row for {len(lacking)} of the images: {some(lacking)}.")
    return result


def tables_in(folder: pathlib.Path) -> list[str]:
    """The names of the files that may be the table, images.csv first."""
    names = [p.name for p in folder.iterdir() if p.suffix.lower() in (".csv", ".tsv", ".txt")]
    return sorted(names, key=lambda name: (name.lower() != "images.csv", not name.lower().endswith(".csv"), name))
