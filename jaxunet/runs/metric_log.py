"""Records of a run: `config.json`, `metrics.jsonl`, TensorBoard, trackers, progress bar. Only process 0 writes them."""

import json
import pathlib
import tempfile
import time
from collections.abc import Mapping
from typing import Self

import numpy as np
import tensorboardX
from ml_collections import ConfigDict
from PIL import Image
from tensorboardX.summary import hparams
from tqdm import tqdm

from jaxunet.core.errors import UserError
from jaxunet.core.files import in_bucket, write_atomically
from jaxunet.data.specs import LABELLED_IMAGES
from jaxunet.devices import processes
from jaxunet.runs.config_file import to_json
from jaxunet.runs.settings import flatten
from jaxunet.runs.trackers import Trackers, kind_of

_FLUSH_SECONDS = 60
_LONGEST = 500  # characters of a setting at TensorBoard and trackers


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
    """Writes one JSON line per call to `write`, sends it to TensorBoard and trackers too, and moves the progress bar.

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
        rows = read_metrics(workdir)
        settings = {k: v if isinstance(v, int | float) else str(v)[:_LONGEST] for k, v in flatten(config).items()}
        self._trackers = Trackers(workdir, config.track, settings, rows, self.message)
        last = {"training": start_step, "validation": validated_step}
        kept = [row for row in rows if row["step"] <= last[kind_of(row)]]
        self._temporary = tempfile.TemporaryDirectory(prefix="jaxunet-") if in_bucket(workdir) else None
        self._workdir, self._folder = workdir, pathlib.Path(self._temporary.name) if self._temporary else workdir
        self._sent: dict[pathlib.Path, int] = {}
        self._flushed = time.monotonic()
        write_atomically(self._folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept))
        self._file = (self._folder / "metrics.jsonl").open("a")
        self._events = tensorboardX.SummaryWriter(str(self._folder / "tensorboard"), purge_step=start_step + 1)
        ranked = "val/accuracy" if config.dataset.name == LABELLED_IMAGES else "val/P1/dice"
        for summary in hparams(settings, {ranked: 0.0})[:2]:  # the definition and the start; the scalars follow
            self._events.file_writer.add_summary(summary)

    def advance(self, steps: int) -> None:
        self._bar.update(steps)

    def show(self, **values: str) -> None:
        """Shows numbers beside the progress bar."""
        self._bar.set_postfix(values, refresh=False)

    def message(self, text: str) -> None:
        """Prints a line above the progress bar."""
        if self._active:
            self._bar.write(text)

    def write(self, step: int, values: dict[str, float], pictures: Mapping[str, Image.Image] = {}) -> None:
        """Appends `{"step": step, **values}` and makes it visible to readers at once. Pictures are for TensorBoard and
        trackers."""
        if not self._active:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        for name, picture in pictures.items():
            self._events.add_image(name, np.asarray(picture), step, dataformats="HWC")
        self._trackers.log(step, values, pictures)
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

    def __exit__(self, kind: object, *_: object) -> None:
        self._bar.close()
        if self._active:
            self._file.close()
            try:
                self.flush()
            finally:
                self._events.close()
                if self._temporary:
                    self._temporary.cleanup()
                self._trackers.close(failed=kind is not None)  # last: it may take long
