"""The log of predictions, from which an interrupted command continues, and the tables written from it.

The first line of `predictions.jsonl` has the settings. Each other line has the row of one image, written when the image
is finished. At the end, `predictions.csv` and `.json` are written in the order of the input. Memory holds two numbers
per image.
"""

import contextlib
import csv
import hashlib
import io
import json
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from jaxunet.core.errors import UserError
from jaxunet.core.files import atomic_file, lock
from jaxunet.prediction.measures import MEASURES
from jaxunet.xrays.files import XrayFile

COLUMNS = (
    *("input", "height", "width", *MEASURES, "pixel_height_mm", "pixel_width_mm"),
    *("covid19_probability", "covid19_detected", "usable", "warnings", "error"),
)


class PredictionLog:
    """The log and tables of one process. A lock keeps other processes from writing them."""

    def __init__(self, output: pathlib.Path, settings: dict[str, Any], share: tuple[int, int]):
        """A log with other `settings` than these, which the output depends on, is started anew.

        `share`: (index of this process, number of processes).
        Raises UserError if the folder has predictions of another input, or another process is writing there.
        """
        name = "predictions" if share[1] == 1 else f"predictions-{share[0]}-of-{share[1]}"
        self._output, self._name, self._settings = output, name, settings
        self._lines: dict[int, tuple[int, int]] = {}  # image -> its version, and where its row is; below 0 if it failed
        self.finished = self.failed = self.unusable = 0
        output.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._lock(name))
            self._file = stack.enter_context((output / f"{name}.jsonl").open("a+b"))
            self._read_back()
            self._remove_stale_tables()
            self._open = stack.pop_all()

    def _lock(self, name: str, settings: str = "") -> contextlib.AbstractContextManager[bool]:
        taken = f"Another process is predicting into {self._output}{settings}: choose another --output."
        return lock(self._output / f".{name}.lock", taken)

    def _read_back(self) -> None:
        self._file.seek(0)
        at = 0
        for number, line in enumerate(self._file):
            row = _parse(line)
            if number == 0:
                settings = (row or {}).get("settings", {})
                self._check_input(settings)
                if settings != self._settings:
                    break
            if row is None:  # the process was killed while it wrote this line
                break
            if number:
                self._lines[_key(row["input"])] = _key(row["version"]), -at if row["error"] else at
            at += len(line)
        self._file.truncate(at)
        if at == 0:
            self._write({"settings": self._settings})

    def _check_input(self, settings: dict[str, Any]) -> None:
        if settings.get("input", self._settings["input"]) != self._settings["input"]:
            raise UserError(f"{self._output} has predictions for {settings['input']}: choose another --output.")

    def _remove_stale_tables(self) -> None:
        """So that no table lies beside masks that are about to be replaced: its own, and those of other settings.

        One process alone takes over the rows of processes that had shares and the same settings.
        """
        for path in sorted(self._output.glob("predictions*.jsonl")):
            if not re.fullmatch(r"predictions(-\d+-of-\d+)?", path.stem):
                continue
            if path.stem != self._name:
                with path.open("rb") as other:
                    settings = (_parse(other.readline()) or {}).get("settings", {})
                    if settings == self._settings:
                        if self._name == "predictions":
                            self._take_over(other)
                        continue
                self._check_input(settings)
                with self._lock(path.stem, " with other settings"):
                    path.unlink()
            for suffix in (".csv", ".json"):
                path.with_suffix(suffix).unlink(missing_ok=True)
        if self._name != "predictions" and not (self._output / "predictions.jsonl").exists():
            for suffix in (".csv", ".json"):
                (self._output / f"predictions{suffix}").unlink(missing_ok=True)

    def _take_over(self, rows: Iterable[bytes]) -> None:
        own = {image for image, (_, at) in self._lines.items() if at > 0}
        for row in filter(None, map(_parse, rows)):
            if not row["error"] and (image := _key(row["input"])) not in own:
                self._lines[image] = _key(row["version"]), self._write(row)  # of two rows, the later one

    def has(self, file: XrayFile, crc32: Callable[[str], int]) -> bool:
        """Whether the image has been predicted, in this version and with these settings, and its output is unchanged.

        `crc32` gives the checksum of the output for an image's name.
        """
        version, at = self._lines.get(_key(file.name), (0, -1))
        return at > 0 and version == _key(file.version) and self._row(at).get("crc32") == crc32(file.name)

    def add(self, file: XrayFile, row: dict[str, Any], crc32: int) -> None:
        """Writes a row and the checksum of the image's output at once. Columns that are missing in `row` are empty."""
        row = dict.fromkeys(COLUMNS) | {"input": file.name, "warnings": []} | row
        at = self._write(row | {"version": file.version, "crc32": crc32})
        self._lines[_key(file.name)] = _key(file.version), -at if row["error"] else at

    def _write(self, row: dict[str, Any]) -> int:
        at = self._file.seek(0, io.SEEK_END)
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()
        return at

    def write_tables(self, files: Iterable[XrayFile]) -> None:
        """Writes the CSV and JSON files with a row for each of `files`; counts finished, failed and unusable images."""
        self.finished = self.failed = self.unusable = 0
        ascii_alone = True
        for row in self._rows(files):
            self.failed += bool(row["error"])
            self.finished += not row["error"]
            self.unusable += row["usable"] is False
            ascii_alone &= _is_ascii(row)
        _write_csv(self._output / f"{self._name}.csv", self._rows(files), ascii_alone=ascii_alone)
        with atomic_file(self._output / f"{self._name}.json") as file:
            file.write(b'{"settings": ' + json.dumps(self._settings, indent=2).encode() + b',\n"images": [')
            for number, row in enumerate(self._rows(files)):
                file.write((b",\n" if number else b"\n") + json.dumps(row).encode())
            file.write(b"\n]}\n")

    def _rows(self, files: Iterable[XrayFile]) -> Iterator[dict[str, Any]]:
        """One of each file; of one that was changed after it was predicted, that of its earlier content."""
        for file in files:
            if found := self._lines.get(_key(file.name)):
                row = self._row(abs(found[1]))
                yield {name: value for name, value in row.items() if name not in ("version", "crc32")}
            else:
                late = "it was added while the others were predicted: start the same command again."
                yield dict.fromkeys(COLUMNS) | {"input": file.name, "warnings": [], "error": late}

    def _row(self, at: int) -> dict[str, Any]:
        self._file.seek(at)
        row: dict[str, Any] = json.loads(self._file.readline())
        return row

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


def check_table(path: pathlib.Path) -> None:
    """Raises UserError if the file `path` exists, and its columns are not `COLUMNS`."""
    if path.is_file():
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            if file.readline().rstrip("\r\n") != ",".join(COLUMNS):
                raise UserError(f"{path} is not a table of predictions: choose another folder, or table=False.")


def put_row(path: pathlib.Path, row: dict[str, Any]) -> None:
    """Writes a row into the table `path`. It replaces the row with the same `input`, else it is added at the end."""
    rows: dict[str, dict[str, Any]] = {}
    if path.is_file():
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = {old["input"]: old for old in csv.DictReader(file)}
    new = list((rows | {_harmless(row["input"]): row}).values())
    _write_csv(path, new, ascii_alone=all(map(_is_ascii, new)))


def _write_csv(path: pathlib.Path, rows: Iterable[dict[str, Any]], *, ascii_alone: bool) -> None:
    """Excel takes a file for UTF-8 only if it begins with a byte order mark; one of ASCII alone needs none."""
    with atomic_file(path) as file:
        text = io.TextIOWrapper(file, "utf-8" if ascii_alone else "utf-8-sig", "surrogateescape", newline="")
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            said = row["warnings"]
            cells = {name: row.get(name) for name in ("input", "error")}
            cells["warnings"] = said if isinstance(said, str) else "; ".join(said)
            writer.writerow(row | {name: _harmless(cell) for name, cell in cells.items()})
        text.detach()  # flushes, and leaves the file open


def _harmless(text: str | None) -> str | None:
    """With ' before what a spreadsheet would run as a formula."""
    return f"'{text}" if text and text[0] in "=+-@\t\r" else text


def _is_ascii(row: dict[str, Any]) -> bool:
    return all("".join(row[name] or "").isascii() for name in ("input", "warnings", "error") if name in row)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


def _key(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
