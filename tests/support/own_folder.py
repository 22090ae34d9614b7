"""A folder as users have them: drawn chest X-rays of two sizes with ribs, a device and a pneumothorax, of patients."""

import csv
import pathlib

import numpy as np
from PIL import Image

from jaxunet.data.drawing import draw_chest_xray

SIZES = ((384, 512), (512, 384))  # height and width in pixels, of every other patient
TARGETS = ("ribs", "device", "pneumothorax")


def draw(index: int, size: tuple[int, int], *, collapsed: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """X-ray `index` uint8 [h, w], and target -> mask bool [h, w]. `collapsed`: whether a lung has a pneumothorax."""
    rng = np.random.default_rng(index)
    picture, lung, _ = (
        np.asarray(Image.fromarray(x).resize(size[::-1], method))
        for x, method in zip(
            draw_chest_xray(5, index, "train", "Normal"), (Image.BICUBIC, *2 * [Image.NEAREST]), strict=True
        )
    )
    image, inside = picture.astype(np.float32), lung > 0
    y, x = np.mgrid[: size[0], : size[1]] / np.array(size)[:, None, None]
    rows, columns = np.flatnonzero(inside.any(axis=1)) / size[0], np.flatnonzero(inside.any(axis=0)) / size[1]
    side = x < 0.5 if rng.random() < 0.5 else x >= 0.5
    air = inside & side & (y < rows[0] + 0.45 * (rows[-1] - rows[0])) & collapsed
    image[air] = 0.3 * image[air]
    bent = y - rng.uniform(0.3, 0.5) * (x - 0.5) ** 2 - rows[0]
    ribs = (bent % 0.13 < 0.035) & (x > columns[0]) & (x < columns[-1]) & (y > rows[0]) & (y < rows[-1])
    image[ribs] += 45
    device = np.abs(x - rng.uniform(0.4, 0.6) - 0.1 * np.sin(rng.uniform(4, 8) * y)) < 0.012
    device &= y < rng.uniform(0.5, 0.8)
    image[device] = 250
    return np.clip(image, 0, 255).astype(np.uint8), dict(zip(TARGETS, (ribs, device, air), strict=True))


def write(folder: pathlib.Path, *, patients: int = 8, images: int = 2, shrink: int = 1) -> pathlib.Path:
    """Writes `images` X-rays of each of `patients`, their masks and images.csv; returns `folder`.

    Every other patient has a pneumothorax. `shrink` divides the sizes.
    """
    rows = []
    for patient in range(patients):
        size = tuple(n // shrink for n in SIZES[patient // 2 % 2])
        for i in range(images):
            name, collapsed = f"p{patient:02d}_{i}.png", patient % 2 == 0
            image, masks = draw(patient * images + i, size, collapsed=collapsed)
            save(folder / "images" / name, image)
            for target, mask in masks.items():
                save(folder / target / name, mask.astype(np.uint8) * 255)
            label = "pneumothorax" if collapsed else "none"
            rows.append([name, f"P{patient}", label, 30 + 5 * patient, "FM"[patient % 2], "ab"[patient % 3 == 0]])
    with (folder / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "patient", "class", "age", "sex", "site"], *rows])
    return folder


def save(path: pathlib.Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
