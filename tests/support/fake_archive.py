"""Makes small archives in the layout of COVID-QU-Ex, from random blobs, to be damaged by tests; finds the real one."""

import io
import os
import pathlib
import zipfile
from collections.abc import Callable

import numpy as np
from PIL import Image

Files = dict[str, bytes]
ROOT = "Infection Segmentation Data/Infection Segmentation Data"


def png(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "png")
    return data.getvalue()


def xray(seed: int) -> np.ndarray:
    """uint8 [256, 256]: smooth random shades, different enough for their hashes to be far apart."""
    small = np.random.default_rng(seed).integers(0, 255, (16, 17), np.uint8)
    return np.asarray(Image.fromarray(small).resize((256, 256), Image.Resampling.BICUBIC))


def square(start: int, stop: int) -> np.ndarray:
    """Mask uint8 {0, 255} [256, 256]."""
    mask = np.zeros((256, 256), np.uint8)
    mask[start:stop, start:stop] = 255
    return mask


def fake_files(per_class: int = 2) -> Files:
    """Entry -> bytes of a sound archive."""
    files, seed = {"COVID-QU-Ex dataset.txt": b"about"}, 0
    for split in ("Train", "Val", "Test"):
        for label, stem in (("COVID-19", "covid_{}"), ("Non-COVID", "non_COVID ({})"), ("Normal", "Normal ({})")):
            for _ in range(per_class):
                seed += 1
                folder, name = f"{ROOT}/{split}/{label}", stem.format(seed) + ".png"
                infected = square(60, 60 + 5 * seed) if label == "COVID-19" else square(0, 0)
                files[f"{folder}/images/{name}"] = png(xray(seed))
                files[f"{folder}/lung masks/{name}"] = png(square(40, 200))
                files[f"{folder}/infection masks/{name}"] = png(infected)
    return files


def write_zip(path: pathlib.Path, files: Files) -> pathlib.Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_folder(path: pathlib.Path, files: Files, rename: Callable[[str], str] = lambda name: name) -> pathlib.Path:
    for name, data in files.items():
        target = path / rename(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return path


def real_archive() -> pathlib.Path | None:
    """The real dataset: the zip or folder that JAXUNET_COVID_QU_EX names, else a zip in ../shared/data."""
    if named := os.environ.get("JAXUNET_COVID_QU_EX"):
        return pathlib.Path(named)
    return next(iter(sorted((pathlib.Path(__file__).parents[3] / "shared" / "data").glob("covid-qu-ex*.zip"))), None)
