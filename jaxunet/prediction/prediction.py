"""The prediction of one X-ray: masks, probabilities, COVID-19 or not, measures, warnings, pictures, files.

`Predictor.predict` creates it. `--mode=predict`, the web page and notebooks all read it, so their results are the same.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import zlib
from typing import Any

import numpy as np

from jaxunet.core.errors import UserError
from jaxunet.core.files import local_path, write_atomically
from jaxunet.core.pictures import png
from jaxunet.data.targets import Records, finding, organ
from jaxunet.prediction import frontal, journal, overlay
from jaxunet.prediction.measures import SEVERITY, measure, quality_warnings
from jaxunet.scoring.counts import positive, sigmoid
from jaxunet.scoring.detection import Rule
from jaxunet.xrays import letterbox
from jaxunet.xrays.files import output_name
from jaxunet.xrays.pixels import Xray


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The prediction of one X-ray of H x W pixels. Each value is computed at first use.

    Attributes:
      name: the name of the X-ray's file, such as "patient7.png". `save` names its files after it.
      xray: the X-ray.
      place: where the X-ray lies in the square that the network saw.
      square: float32 [S, S, C], logits of `targets` in that square.
      records: name -> record of each mask.
      answer: probability of COVID-19 for the whole image, in [0, 1]; None if the network does not predict it.
      threshold: a pixel is marked if its probability exceeds this.
      rule: when the X-ray counts as COVID-19.
      gate: whether masks learnt from COVID-19 images only are blank if `rule` does not call the X-ray COVID-19.
      checked: whether `refusal` looks for pictures that are no frontal chest X-ray.
      weights: tells the network's weights from others, in DICOM files.
      report: whether `save` writes a DICOM structured report.
    """

    name: str
    xray: Xray
    place: letterbox.Placement
    square: np.ndarray
    records: Records
    answer: float | None
    threshold: float
    rule: Rule
    gate: bool
    checked: bool = False
    weights: str = ""
    report: bool = False

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the masks."""
        return tuple(self.records)

    @functools.cached_property
    def refusal(self) -> str:
        """Why the picture is not usable as a frontal chest X-ray, in words; "" if it is, or `checked` is False.

        Masks are drawn all the same; there is no severity and no answer.
        """
        if not self.checked:
            return ""
        return "; ".join(self.xray.other) or frontal.refusal(self.xray.pixels, self._organ)

    @property
    def covid19(self) -> float | None:
        """Probability of COVID-19, in [0, 1]; None if the network does not answer that, or the picture is refused."""
        return None if self.refusal else self.answer

    @functools.cached_property
    def masks(self) -> dict[str, np.ndarray]:
        """Target -> bool [H, W], True where it was found."""
        masks = {target: positive(self._logits[..., i], self.threshold) for i, target in enumerate(self.targets)}
        if self.gate and self.answer is not None and not self.rule.calls(self.answer):
            return {name: np.zeros_like(x) if self.records[name].learnt_from else x for name, x in masks.items()}
        return masks

    @functools.cached_property
    def probabilities(self) -> dict[str, np.ndarray]:
        """Target -> float32 [H, W] in [0, 1]. Not blank if the infection mask is."""
        return {target: self._probability(i) for i, target in enumerate(self.targets)}

    @functools.cached_property
    def measures(self) -> dict[str, Any]:
        """Areas, shares and counts, such as "severity_percent"; see `measures.measure`.

        A refused picture has no severity.
        """
        found = self.masks.get(finding(self.records) or "")
        result = measure(found, self._organ, spacing_mm=self.xray.spacing_mm, mirrored=self.xray.mirrored)
        return result | dict.fromkeys(SEVERITY) if self.refusal else result

    @property
    def detected(self) -> bool | None:
        """Whether the X-ray counts as COVID-19 by `rule`; None if the network does not predict infection, or the
        picture is refused."""
        return None if self.refusal else self.rule.calls_xray(self.measures, self.covid19)

    @functools.cached_property
    def warnings(self) -> list[str]:
        """Reasons why the prediction may be wrong. An X-ray without a warning can still be unsuitable."""
        refused = [f"not usable as a frontal chest X-ray: {self.refusal}"] if self.refusal else []
        return [*refused, *self.xray.notes, *quality_warnings(self.xray.pixels, self._organ)]

    @property
    def row(self) -> dict[str, Any]:
        """The columns of `predictions.csv` without `input` and `error`. Fractions are rounded."""
        height, width = self.xray.pixels.shape
        pixel_height, pixel_width = self.xray.spacing_mm or (None, None)
        return {
            "height": height,
            "width": width,
            **{key: round(value, 4) if isinstance(value, float) else value for key, value in self.measures.items()},
            "pixel_height_mm": pixel_height,
            "pixel_width_mm": pixel_width,
            "covid19_probability": None if self.covid19 is None else round(self.covid19, 6),
            "covid19_detected": self.detected,
            "usable": not self.refusal,
            "warnings": list(self.warnings),
        }

    def overlay(self) -> np.ndarray:
        """uint8 [h, w, 3]: the X-ray with the outlines of the masks, reduced to at most 1024 pixels per side."""
        return overlay.paint(self.xray.pixels, self.masks, self.records)

    def dicom_files(self) -> dict[str, bytes]:
        """Path in a folder of results -> DICOM segmentation or report. Empty if the X-ray is no DICOM file.

        Raises:
          UserError: if the X-ray's header is not sufficient.
        """
        if self.xray.header is None:
            return {}
        from jaxunet.prediction import dicom_segmentation  # late: pydicom is optional

        row = self.row if self.report else None
        contents = dicom_segmentation.files(self.xray, self.masks, self.records, self.weights, row)
        return dict(zip(_dicom_paths(output_name(self.name)), contents, strict=False))

    def save(
        self, folder: str | os.PathLike[str], *, probabilities: bool = False, table: bool = True
    ) -> dict[str, Any]:
        """Writes the same pictures as `--mode=predict`, and the row into `predictions.csv`.

        They replace the pictures and the row of an earlier prediction with the same name.

        Args:
          folder: folder to write to; it is created if missing.
          probabilities: also write the probabilities as 8-bit pictures.
          table: write the row into `predictions.csv`.

        Returns:
          The row. Its warnings say if no DICOM segmentation could be written.

        Raises:
          UserError: if the folder cannot be created, or has another `predictions.csv`. Nothing is written then.
        """
        out, name, row = local_path(folder), output_name(self.name), self.row
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{out} cannot be created ({error.strerror}): choose another folder.") from error
        if table:
            journal.check_table(out / "predictions.csv")
        try:
            for path, content in self.dicom_files().items():
                write_atomically(out / path, content)
        except UserError as error:
            row["warnings"].append(str(error))
        for i, (target, mask) in enumerate(self.masks.items()):
            if probabilities:
                levels = np.rint(self._probability(i, of=255)).astype(np.uint8)
                _write_png(_picture(out, "probabilities", f"{name}_{target}"), levels)
            _write_png(_picture(out, "masks", f"{name}_{target}"), mask.astype(np.uint8) * 255)
        _write_png(_picture(out, "overlays", name), self.overlay())
        if table:
            journal.put_row(out / "predictions.csv", {"input": self.name, **row})
        return row

    def __repr__(self) -> str:
        height, width = self.xray.pixels.shape
        answer = "" if self.covid19 is None else f", probability of COVID-19 {self.covid19:.3f}"
        return f"<Prediction of {self.name}: {height} x {width} pixels, {' and '.join(self.targets)}{answer}>"

    @functools.cached_property
    def _logits(self) -> np.ndarray:
        """float32 [H, W, C]."""
        return letterbox.restore(self.square, self.place)

    @property
    def _organ(self) -> np.ndarray | None:
        return self.masks.get(organ(self.records) or "")

    def _probability(self, target: int, *, of: int = 1) -> np.ndarray:
        """float32 [H, W], in [0, `of`]."""
        return sigmoid(self._logits[..., target], of=of)


def checksum(output: pathlib.Path, name: str, *, targets: tuple[str, ...], probabilities: bool) -> int:
    """CRC-32 of all files in `output` that were written for the X-ray `name`. One that is missing counts as empty."""
    stem, folders = output_name(name), ("masks", "probabilities") if probabilities else ("masks",)
    paths = [_picture(output, folder, f"{stem}_{target}") for folder in folders for target in targets]
    crc = 0
    for path in (*paths, _picture(output, "overlays", stem), *(output / path for path in _dicom_paths(stem))):
        with contextlib.suppress(OSError):
            crc = zlib.crc32(path.read_bytes(), crc)
    return crc


def _picture(output: pathlib.Path, folder: str, stem: str) -> pathlib.Path:
    return output / folder / f"{stem}.png"


def _dicom_paths(stem: str) -> tuple[str, str]:
    return f"segmentations/{stem}.seg.dcm", f"reports/{stem}.sr.dcm"


def _write_png(path: pathlib.Path, pixels: np.ndarray) -> None:
    write_atomically(path, png(pixels, compress_level=1))
