"""The log of predictions, from which an interrupted command continues, and the tables written from it.

The first line of `predictions.jsonl` has the settings. Each other line has the row of one image, written when the image
is finished. At the end, `predictions.csv` and `.json` are written in the order of the input. Memory holds two numbers
per image.
"""

import csv
import fcntl
import hashlib
import io
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, Self

from jaxunet.core.errors import UserError
from jaxunet.core.files import atomic_file
from jaxunet.prediction.measures import MEASURES
from jaxunet.xrays.files import XrayFile

COLUMNS = (
    *("input", "height", "width", *MEASURES, "pixel_height_mm", "pixel_width_mm"),
    *("covid19_probability", "covid19_detected", "warnings", "error"),
)


class PredictionLog:
    """The log and tables of one process. A lock keeps other processes from writing them."""

    def __init__(self, output: pathlib.Path, settings: dict[str, Any], share: tuple[int, int]):
        """Args:
        output: folder of the predictions.
        settings: the settings that the output depends on. A log with other settings is started anew.
        share: (index of this process, number of processes).

        Raises:
          UserError: if the folder has predictions of another input, or another process is writing there.
        """
        name = "predictions" if share[1] == 1 else f"predictions-{share[0]}-of-{share[1]}"
        self._output, self._name, self._settings = output, name, settings
        self._lines: dict[int, int] = {}  # key of image and version -> offset of its row; negative if it failed
        self.finished = self.failed = 0
        output.mkdir(parents=True, exist_ok=True)
        self._file = (output / f"{name}.jsonl").open("a+b")
        try:
            self._lock()
            self._read_back()
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"Another process is predicting into {self._output}: choose another --output.") from error
        except OSError:  # a file system without locks
            pass

    def _read_back(self) -> None:
        self._file.seek(0)
        at = 0
        for number, line in enumerate(self._file):
            row = _parse(line)
            if number == 0:
                settings = (row or {}).get("settings", {})
                if settings.get("input", self._settings["input"]) != self._settings["input"]:
                    raise UserError(f"{self._output} has predictions for {settings['input']}: choose another --output.")
                if settings != self._settings:
                    break
            elif row is not None:
                self._lines[_key(row["input"], row["version"])] = -at if row["error"] else at
            at += len(line)
            if row is None:  # the process was killed while it wrote this line
                at -= len(line)
                break
        self._file.truncate(at)
        if at == 0:
            self._write({"settings": self._settings})

    def has(self, file: XrayFile) -> bool:
        """Whether this version of the image has been predicted with these settings."""
        return self._lines.get(_key(file.name, file.version), -1) > 0

    def add(self, file: XrayFile, row: dict[str, Any]) -> None:
        """Writes a row at once. Columns of `COLUMNS` that are missing in `row` are empty."""
        row = dict.fromkeys(COLUMNS) | {"input": file.name, "warnings": []} | row
        at = self._write(row | {"version": file.version})
        self._lines[_key(file.name, file.version)] = -at if row["error"] else at

    def _write(self, row: dict[str, Any]) -> int:
        at = self._file.seek(0, io.SEEK_END)
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()
        return at

    def write_tables(self, files: Iterable[XrayFile]) -> None:
        """Writes the CSV and JSON files with the rows of `files`, and counts finished and failed images."""
        self.finished = self.failed = 0
        _write_csv(self._output / f"{self._name}.csv", self._rows(files))
        with atomic_file(self._output / f"{self._name}.json") as file:
            file.write(b'{"settings": ' + json.dumps(self._settings, indent=2).encode() + b',\n"images": [')
            for number, row in enumerate(self._rows(files)):
                del row["version"]
                self.failed += bool(row["error"])
                self.finished += not row["error"]
                file.write((b",\n" if number else b"\n") + json.dumps(row).encode())
            file.write(b"\n]}\n")

    def _rows(self, files: Iterable[XrayFile]) -> Iterator[dict[str, Any]]:
        for file in files:
            at = self._lines.get(_key(file.name, file.version))
            if at is not None:
                self._file.seek(abs(at))
                yield json.loads(self._file.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


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
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = {old["input"]: old for old in csv.DictReader(file)}
    _write_csv(path, (rows | {row["input"]: row}).values())


def _write_csv(path: pathlib.Path, rows: Iterable[dict[str, Any]]) -> None:
    with atomic_file(path) as file:
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            warnings = row["warnings"]
            writer.writerow(row | {"warnings": warnings if isinstance(warnings, str) else "; ".join(warnings)})
        text.detach()  # flushes, and leaves the file open


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


def _key(name: str, version: str) -> int:
    digest = hashlib.blake2b(f"{name}\n{version}".encode("utf-8", "surrogateescape"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
