"""`--mode=predict`: X-ray files -> masks, pictures and tables. Reading, predicting and writing overlap."""

import dataclasses
import functools
import itertools
import pathlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from jaxunet.core.errors import UserError
from jaxunet.core.files import local_path
from jaxunet.data.specs import spec_of
from jaxunet.prediction.journal import PredictionLog
from jaxunet.prediction.prediction import Prediction, checksum
from jaxunet.prediction.predictor import Fitted, Predictor
from jaxunet.scoring.detection import COVID_19, ELSEWHERE, RESEMBLES
from jaxunet.xrays.dicomweb import is_address
from jaxunet.xrays.files import XrayFile, XrayFiles
from jaxunet.xrays.read import read_xray

SOME_FAILED = 2  # exit status
_GATED = "; otherwise no infection is marked (config.eval.gate)"
_HELD_PIXELS = 100_000_000  # the most pixels of X-rays in memory: 0.1 GB


def predict(
    predictor: Predictor, source: str, output: pathlib.Path, *, probabilities: bool, share: tuple[int, int] = (0, 1)
) -> int:
    """Predicts every X-ray at `source` and writes masks, overlays, `predictions.csv` and `.json` into `output`.

    Images that are finished and unchanged, as are their outputs and all settings, are skipped.

    Args:
      source: a file, a folder, a zip, a glob, or the address of a study on a DICOMweb server.
      probabilities: also write probabilities as pictures.
      share: (i, n): this process takes images i, i + n, i + 2n, ...

    Returns the exit status: 0; 1 if all files failed; 2 if some failed or are not usable as frontal chest X-rays.
    Raises UserError if `source` has no images.
    """
    files = xrays_at(source, skip=output)
    mine = _Share(files, *share)
    config = predictor.config
    size = predictor.batch_size(len(list(itertools.islice(mine, config.eval.batch_size))))
    settings = _settings(predictor, source, probabilities=probabilities)
    print(predictor.in_words)
    if predictor.rule.positive:
        resembles = RESEMBLES.replace(COVID_19, predictor.rule.positive)
        gated = _GATED if predictor.gate else ""
        print(f"The answer is whether an X-ray {resembles}: {predictor.rule_in_words}{gated}")
    if predictor.answers_covid19:
        print(ELSEWHERE)
        if not predictor.gate:
            print("Infection was learnt from COVID-19 X-rays only: on other X-rays the masks mark healthy regions.")
    spec = spec_of(config.dataset)
    if spec.positive and not spec.has_controls(config.dataset.train_config):
        print(f"The network was trained on {spec.positive} X-rays only: on other X-rays it marks healthy regions.")
    with PredictionLog(output, settings, share) as log:
        with tqdm(unit="X-ray", dynamic_ncols=True) as bar:
            threading.Thread(target=_count, args=(mine, bar), daemon=True).start()
            crc32 = functools.partial(checksum, output, targets=predictor.targets, probabilities=probabilities)
            for file, row in _rows(predictor, _unfinished(mine, log, bar, crc32), output, size, probabilities):
                if row.get("error"):
                    bar.write(f"skipped {shown(file.name)}: {row['error']}", sys.stderr)
                log.add(file, row, crc32(file.name))
                bar.update()
        log.write_tables(mine)
    failed = f", {log.failed} failed (column error)" if log.failed else ""
    if log.unusable:
        failed = f", {log.unusable} not usable as frontal chest X-rays (columns usable, warnings){failed}"
    xrays = "X-ray" if log.finished == 1 else "X-rays"
    print(f"{log.finished} {xrays} predicted{failed}. Written to {output}{'.' * bool(files.left_out)}{files.left_out}")
    if log.failed and not log.finished:
        return 1
    return SOME_FAILED if log.failed or log.unusable else 0


def xrays_at(source: str, skip: pathlib.Path) -> XrayFiles:
    """The files at `source`. Raises UserError if there are none."""
    files = XrayFiles(source, skip)
    if next(iter(files), None) is None:
        raise UserError(f"--input={source} has no PNG, JPEG, TIFF or DICOM files.{files.left_out}")
    return files


def shown(name: str) -> str:
    """A file's name, safe to print."""
    return name if name.isprintable() else ascii(name)


class _Share:
    """Files process, process + processes, process + 2 processes, ..."""

    def __init__(self, files: XrayFiles, process: int, processes: int):
        self._files, self._process, self._processes = files, process, processes

    def __iter__(self) -> Iterator[XrayFile]:
        return itertools.islice(self._files, self._process, None, self._processes)


def _settings(predictor: Predictor, source: str, *, probabilities: bool) -> dict[str, Any]:
    """The settings that the output depends on."""
    asked = {key: True for key, value in predictor.config.predict.items() if value}
    return {
        "input": source if is_address(source) else str(local_path(source).absolute()),
        "checkpoint_step": predictor.step,
        "weights_crc32": predictor.weights_crc32,
        "targets": list(predictor.targets),
        "image_size": predictor.image_size,
        "threshold": predictor.threshold,
        "flips": predictor.config.eval.flips,
        "detection": predictor.rule.to_dict(),
        "gate": predictor.gate,
        "frontal_check": predictor.checked,
        "probabilities": probabilities,
        **asked,  # only those that are on, so that logs of earlier versions stay valid
    }


def _count(files: Iterable[XrayFile], bar: tqdm) -> None:
    bar.total = sum(1 for _ in files)


def _unfinished(
    files: Iterable[XrayFile], log: PredictionLog, bar: tqdm, crc32: Callable[[str], int]
) -> Iterator[XrayFile]:
    for file in files:
        if log.has(file, crc32):
            bar.initial, bar.n = bar.initial + 1, bar.n + 1
        else:
            yield file


# ---- one batch after the other ---------------------------------------------------------------------------------------


class _Room:
    """Lets threads read X-rays in order, and only while those in memory have less than `_HELD_PIXELS` pixels."""

    def __init__(self) -> None:
        self._changed, self._turn, self._pixels, self._closed = threading.Condition(), 0, 0, False

    def enter(self, number: int) -> None:
        """Waits for the turn of file `number` and for room."""
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
    """A file in progress. `row` is set when its pictures are being written, or when it cannot be used."""

    file: XrayFile
    row: Future[dict[str, Any]] | None = None


def _rows(
    predictor: Predictor, files: Iterator[XrayFile], output: pathlib.Path, size: int, probabilities: bool
) -> Iterator[tuple[XrayFile, dict[str, Any]]]:
    """Predicts `files` in batches of `size`, writes their pictures and yields their rows in order."""
    room, threads = _Room(), predictor.config.input.threads
    reading, writing = ThreadPoolExecutor(threads, "read"), ThreadPoolExecutor(threads, "write")
    slots: deque[_Slot] = deque()
    batch: list[tuple[_Slot, Fitted]] = []

    def write(prediction: Prediction) -> dict[str, Any]:
        row = prediction.save(output, probabilities=probabilities, table=False)
        room.change(-prediction.xray.pixels.size)
        return row

    def predict_batch() -> None:
        predictions = predictor.predict_fitted([fitted for _, fitted in batch], batch_size=size)
        for (slot, _), prediction in zip(batch, predictions, strict=True):
            slot.row = writing.submit(write, prediction)
        batch.clear()

    try:
        for file, future in _read_ahead(predictor, files, reading, room, ahead=2 * size):
            slots.append(slot := _Slot(file))
            try:
                batch.append((slot, future.result()))
            except UserError as error:
                slot.row = Future()
                slot.row.set_result({"error": str(error)})
            if len(batch) == size or room.full():
                predict_batch()
            while slots and (row := slots[0].row) and (row.done() or room.full() or len(slots) > 3 * size):
                yield slots.popleft().file, row.result()
        predict_batch()
        while slots and (row := slots[0].row):
            yield slots.popleft().file, row.result()
    finally:
        room.close()
        for pool in (reading, writing):
            pool.shutdown(cancel_futures=True)


def _read_ahead(
    predictor: Predictor, files: Iterable[XrayFile], pool: ThreadPoolExecutor, room: _Room, *, ahead: int
) -> Iterator[tuple[XrayFile, Future[Fitted]]]:
    pending: deque[tuple[XrayFile, Future[Fitted]]] = deque()
    for number, file in enumerate(files):
        pending.append((file, pool.submit(_read, predictor, file, number, room)))
        if len(pending) > ahead:
            yield pending.popleft()
    while pending:
        yield pending.popleft()


def _read(predictor: Predictor, file: XrayFile, number: int, room: _Room) -> Fitted:
    room.enter(number)
    try:
        found = read_xray(file.read(), keep_patient=predictor.config.predict.keep_patient)
    except OSError as error:
        raise UserError(f"it cannot be read ({error.strerror or error}).") from error
    room.change(found.pixels.size)
    return predictor.fit(file.name, found)
