"""Records of a run: `config.json`, `metrics.jsonl`, TensorBoard events, progress bar. Only process 0 writes."""

import json
import pathlib
import tempfile
import time
from typing import Self

import tensorboardX
from ml_collections import ConfigDict
from tqdm import tqdm

from jaxunet.core.errors import UserError
from jaxunet.core.files import in_bucket, write_atomically
from jaxunet.devices import processes
from jaxunet.runs.config_file import to_json

_FLUSH_SECONDS = 60


def read_metrics(workdir: pathlib.Path) -> list[dict]:
    """Rows of `metrics.jsonl`. Ignores a last line that a crash cut short.

    Raises:
      UserError: if another line is damaged.
    """
    path = workdir / "metrics.jsonl"
    lines = path.read_bytes().splitlines() if path.is_file() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(_row(line))
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                raise UserError(f"Line {number} of {path} is damaged ({error}): remove it, or repair it.") from error
    return rows


def _row(line: bytes) -> dict[str, float]:
    row = json.loads(line)
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        raise ValueError("there is no step in it")
    if wrong := [key for key, value in row.items() if type(value) not in (int, float)]:
        raise ValueError(f"{wrong[0]} is no number")
    return row


class MetricWriter:
    """Writes one JSON line per call to `write`, the same numbers to TensorBoard, and moves the progress bar.

    A run that resumes first drops training rows after `start_step` and validation rows after `validated_step`, so that
    the file equals that of an uninterrupted run. Files in a bucket cannot be appended to: a temporary folder has rows
    and events, and `flush` sends them. `write` calls it once a minute.
    """

    def __init__(
        self, workdir: pathlib.Path, config: ConfigDict, *, start_step: int, validated_step: int, total_steps: int
    ):
        self._active = processes.is_first()
        self._bar = tqdm(
            total=total_steps, initial=start_step, unit="step", disable=not self._active, dynamic_ncols=True
        )
        if not self._active:
            return
        write_atomically(workdir / "config.json", to_json(config))
        kept = [
            row
            for row in read_metrics(workdir)
            if row["step"] <= (validated_step if any(key.startswith("val/") for key in row) else start_step)
        ]
        self._temporary = tempfile.TemporaryDirectory(prefix="jaxunet-") if in_bucket(workdir) else None
        self._workdir, self._folder = workdir, pathlib.Path(self._temporary.name) if self._temporary else workdir
        self._sent: dict[pathlib.Path, int] = {}
        self._flushed = time.monotonic()
        write_atomically(self._folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept))
        self._file = (self._folder / "metrics.jsonl").open("a")
        self._events = tensorboardX.SummaryWriter(str(self._folder / "tensorboard"), purge_step=start_step + 1)

    def advance(self, steps: int) -> None:
        self._bar.update(steps)

    def show(self, **values: str) -> None:
        """Shows numbers beside the progress bar."""
        self._bar.set_postfix(values, refresh=False)

    def message(self, text: str) -> None:
        """Prints a line above the progress bar."""
        if self._active:
            self._bar.write(text)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends `{"step": step, **values}` and makes it visible to readers at once."""
        if not self._active:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def rows(self) -> list[dict]:
        """All rows so far; process 0 only."""
        return read_metrics(self._folder)

    def flush(self) -> None:
        """Copies the files that have changed to the bucket."""
        if not self._active or not self._temporary:
            return
        self._events.flush()
        for path in sorted(p for p in self._folder.rglob("*") if p.is_file()):
            content = path.read_bytes()
            if len(content) != self._sent.get(path):
                write_atomically(self._workdir / path.relative_to(self._folder), content)
                self._sent[path] = len(content)
        self._flushed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._active:
            self._file.close()
            try:
                self.flush()
            finally:
                self._events.close()
                if self._temporary:
                    self._temporary.cleanup()
