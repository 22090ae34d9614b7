"""X-rays of any kind -> masks, pictures and a table. Reading, predicting and writing go on at the same time."""

import dataclasses
import itertools
import pathlib
import sys
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxunet.core.errors import UserError
from jaxunet.prediction import outputs
from jaxunet.prediction.journal import PredictionLog
from jaxunet.prediction.predictor import Predictor
from jaxunet.scoring.detection import sigmoid
from jaxunet.xrays import letterbox
from jaxunet.xrays.files import XrayFile, XrayFiles
from jaxunet.xrays.pixels import Xray
from jaxunet.xrays.read import read_xray

SOME_FAILED = 2  # exit status
_GATED = "; else no infection is marked (config.eval.gate)"
_HELD_PIXELS = 100_000_000  # of X-rays that are read and not yet written: 0.1 GB


def predict(
    predictor: Predictor,
    source: str,
    output: pathlib.Path,
    *,
    probabilities: bool,
    share: tuple[int, int] = (0, 1),
) -> int:
    """Predicts every X-ray at `source` and writes masks, overlays, `predictions.csv` and `.json` into `output`.

    Images that are finished, unchanged and predicted with the same settings are skipped.

    Args:
      predictor: the network; the batch size of its config is lowered where so many images are not there.
      source: a file, a folder, a zip, or a glob.
      output: folder to write to.
      probabilities: also write probabilities as pictures.
      share: (process, processes): every so manieth image is this process's.

    Returns:
      Exit status: 0, or 2 if some files failed, 1 if all did.

    Raises:
      UserError: if there is nothing to predict.
    """
    files = XrayFiles(source, skip=output)
    if next(iter(files), None) is None:
        raise UserError(f"--input={source} has no PNG, JPEG, TIFF or DICOM files.")
    mine = _Share(files, *share)
    config = predictor.config
    config.eval.batch_size = _batch_size(config.eval.batch_size, mine)
    settings = _settings(predictor, source, probabilities=probabilities)
    print(
        f"{' and '.join(predictor.targets)} from step {predictor.step} of {predictor.origin}, {predictor.image_size} "
        f"pixels per side, threshold {predictor.threshold}"
    )
    print(f"{predictor.rule}{_GATED if settings['gate'] else ''}")
    if predictor.answers_covid19 and not predictor.gate:
        print("Infection was learnt from COVID-19 X-rays alone: on others the masks mark what is not there.")
    if config.dataset.train_config == "infection":
        print("The network was trained on COVID-19 X-rays alone: on others it marks what is not there.")
    with PredictionLog(output, settings, share) as log:
        with tqdm(unit="X-ray", dynamic_ncols=True) as bar:
            threading.Thread(target=_count, args=(mine, bar), daemon=True).start()
            todo = _unfinished(mine, log, bar, output, predictor.targets)
            for file, row in _rows(predictor, todo, output, settings, threads=config.input.threads):
                if row.get("error"):
                    bar.write(f"skipped {shown(file.name)}: {row['error']}", sys.stderr)
                log.add(file, row)
                bar.update()
        log.write_tables(mine)
    failed = f", {log.failed} failed (column error)" if log.failed else ""
    print(f"{log.finished} X-rays predicted{failed}. Written to {output}")
    if log.failed:
        return SOME_FAILED if log.finished else 1
    return 0


def shown(name: str) -> str:
    """A file's name, fit for a terminal."""
    return name if name.isprintable() else ascii(name)


class _Share:
    """Every `processes`-th file, beginning with number `process`."""

    def __init__(self, files: XrayFiles, process: int, processes: int):
        self._files, self._process, self._processes = files, process, processes

    def __iter__(self) -> Iterator[XrayFile]:
        return itertools.islice(self._files, self._process, None, self._processes)


def _batch_size(largest: int, files: Iterable[XrayFile]) -> int:
    """Of a few images, no more than are needed: a power of 2 per device, so that few programs are compiled."""
    devices, wanted = jax.device_count(), len(list(itertools.islice(files, largest)))
    size = devices
    while size < wanted:
        size *= 2
    return min(size, largest)


def _settings(predictor: Predictor, source: str, *, probabilities: bool) -> dict[str, Any]:
    """All that decides what is written."""
    crc = 0
    for leaf in jax.tree.leaves(predictor.variables):
        crc = zlib.crc32(np.ascontiguousarray(leaf), crc)
    return {
        "input": str(pathlib.Path(source).expanduser().absolute()),
        "checkpoint_step": predictor.step,
        "weights_crc32": f"{crc:08x}",
        "targets": list(predictor.targets),
        "image_size": predictor.image_size,
        "threshold": predictor.threshold,
        "flips": predictor.config.eval.flips,
        "detection": predictor.rule.to_dict(),
        "gate": predictor.gate,
        "probabilities": probabilities,
    }


def _count(files: Iterable[XrayFile], bar: tqdm) -> None:
    bar.total = sum(1 for _ in files)


def _unfinished(
    files: Iterable[XrayFile], log: PredictionLog, bar: tqdm, output: pathlib.Path, targets: tuple[str, ...]
) -> Iterator[XrayFile]:
    for file in files:
        if log.has(file) and all(outputs.mask_path(output, file.name, target).is_file() for target in targets):
            bar.initial, bar.n = bar.initial + 1, bar.n + 1
        else:
            yield file


# ---- one batch after the other ---------------------------------------------------------------------------------------


class _Room:
    """Lets X-rays be read in their order, and only while those in memory have less than `_HELD_PIXELS` pixels."""

    def __init__(self) -> None:
        self._changed, self._turn, self._pixels, self._closed = threading.Condition(), 0, 0, False

    def enter(self, number: int) -> None:
        """Waits until it is `number`'s turn and there is room."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (self._turn == number and not self.full()))
            self._turn += 1
            self._changed.notify_all()

    def change(self, pixels: int) -> None:
        with self._changed:
            self._pixels += pixels
            self._changed.notify_all()

    def full(self) -> bool:
        return self._pixels >= _HELD_PIXELS

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


@dataclasses.dataclass
class _Slot:
    """One file on its way: first it is read, then it has a row, or will have."""

    file: XrayFile
    xray: Xray | None = None
    place: letterbox.Placement | None = None
    row: Future | None = None


def _rows(
    predictor: Predictor, files: Iterator[XrayFile], output: pathlib.Path, settings: dict[str, Any], *, threads: int
) -> Iterator[tuple[XrayFile, dict[str, Any]]]:
    """Predicts `files` and writes their pictures; yields the row of each, in order."""
    room, size = _Room(), predictor.config.eval.batch_size
    reading, writing = ThreadPoolExecutor(threads, "read"), ThreadPoolExecutor(threads, "write")
    slots: deque[_Slot] = deque()
    batch: list[tuple[_Slot, np.ndarray]] = []

    def predict_batch() -> None:
        found = predictor.outputs(np.stack([square for _, square in batch])) if batch else {"masks": ()}
        probabilities = sigmoid(found["covid19"]).tolist() if "covid19" in found else [None] * len(batch)
        for (slot, _), masks, probability in zip(batch, found["masks"], probabilities, strict=True):
            slot.row = writing.submit(_write, slot, masks, probability, output, settings, room)
        batch.clear()

    try:
        for file, future in _read_ahead(files, reading, room, predictor.image_size, ahead=2 * size):
            slots.append(slot := _Slot(file))
            try:
                slot.xray, slot.place, square = future.result()
                batch.append((slot, square))
            except UserError as error:
                slot.row = Future()
                slot.row.set_result({"error": str(error)})
            if len(batch) == size or room.full():
                predict_batch()
            while slots and slots[0].row and (slots[0].row.done() or room.full() or len(slots) > 3 * size):
                yield slots[0].file, slots.popleft().row.result()
        predict_batch()
        while slots:
            yield slots[0].file, slots.popleft().row.result()
    finally:
        room.close()
        for pool in (reading, writing):
            pool.shutdown(cancel_futures=True)


def _read_ahead(
    files: Iterable[XrayFile], pool: ThreadPoolExecutor, room: _Room, image_size: int, *, ahead: int
) -> Iterator[tuple[XrayFile, Future]]:
    pending: deque[tuple[XrayFile, Future]] = deque()
    for number, file in enumerate(files):
        pending.append((file, pool.submit(_read, file, number, room, image_size)))
        if len(pending) > ahead:
            yield pending.popleft()
    while pending:
        yield pending.popleft()


def _read(file: XrayFile, number: int, room: _Room, size: int) -> tuple[Xray, letterbox.Placement, np.ndarray]:
    room.enter(number)
    try:
        found = read_xray(file.read())
    except OSError as error:
        raise UserError(f"it cannot be read ({error.strerror or error}).") from error
    room.change(found.pixels.size)
    square, place = letterbox.fit(found.pixels, size)
    return found, place, square


def _write(
    slot: _Slot,
    logits: np.ndarray,
    probability: float | None,
    output: pathlib.Path,
    settings: dict[str, Any],
    room: _Room,
) -> dict[str, Any]:
    """`logits` float32 [S, S, C] of the square, its `probability` of COVID-19 or None -> pictures, and the row."""
    logits = letterbox.restore(logits, slot.place)
    row = outputs.write(output, slot.file.name, slot.xray, logits, probability, settings)
    room.change(-slot.xray.pixels.size)
    slot.xray = None
    return row
