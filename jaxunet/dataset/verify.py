"""Looks at every file of the archive before anything learns from it: integrity, plausibility, leaks between splits."""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import io
import itertools
import multiprocessing
import os
import pathlib
import warnings
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from jaxunet.dataset.archive import CLASSES, PARTS, SPLITS, Archive, Record
from jaxunet.errors import UserError

SIZE = 256
# X-rays per split and class as published; for the lung part only totals per class are.
PUBLISHED = {
    "infection": {
        ("Train", "COVID-19"): 1864, ("Train", "Non-COVID"): 932, ("Train", "Normal"): 932,
        ("Val", "COVID-19"): 466, ("Val", "Non-COVID"): 233, ("Val", "Normal"): 233,
        ("Test", "COVID-19"): 583, ("Test", "Non-COVID"): 292, ("Test", "Normal"): 291,
    },
    "lung": {("all", "COVID-19"): 11956, ("all", "Non-COVID"): 11263, ("all", "Normal"): 10701},
}  # fmt: skip
# Images in different splits whose hashes differ in at most so many bits are called nearly identical. On Train
# and Val of the infection part, each of the 9 pairs within 13 bits is one X-ray twice; from 16 bits on, others appear.
NEAR_BITS, HASH_BITS = 13, 240


@dataclasses.dataclass(frozen=True)
class Checked:
    """What one X-ray's files are like. `masks`: kind -> PNG with values {0, 1}."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    digest: str = ""
    hash: bytes = b""
    masks: dict[str, bytes] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Report:
    """Findings about one part of an archive. `errors` refuse a build, `warnings` do not.

    `identical` and `near` are pairs of ids in different splits, `near_bits` the bits in which the hashes of each near
    pair differ; `dropped_from_train` are the Train ids among the identical ones, which training leaves out by default.
    """

    source: str
    fingerprint: str
    part: str
    counts: dict[str, dict[str, int]]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    identical: tuple[tuple[str, str], ...]
    near: tuple[tuple[str, str], ...]
    near_bits: tuple[int, ...]

    @property
    def dropped_from_train(self) -> tuple[str, ...]:
        return tuple(sorted({i for pair in self.identical for i in pair if i.startswith("Train/")}))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"dropped_from_train": self.dropped_from_train}

    def table(self) -> str:
        """The findings for people; long lists are cut, `verify.json` has them whole."""
        lines = [f"{PARTS[self.part]} in {self.source}", f"{'':8s}" + "".join(f"{c:>11s}" for c in CLASSES)]
        for split in SPLITS:
            lines.append(f"{split:8s}" + "".join(f"{self.counts[split][c]:>11,d}" for c in CLASSES))
        findings = {
            "errors": self.errors,
            "warnings": self.warnings,
            "identical images in two splits": [" = ".join(p) for p in self.identical],
            "nearly identical images in two splits": [
                f"{' ~ '.join(p)} ({bits} bits)" for p, bits in zip(self.near, self.near_bits, strict=True)
            ],
        }
        for name, found in findings.items():
            lines.append(f"{name}: {len(found) or 'none'}")
            lines += [f"  {text}" for text in found[:5]] + ([f"  ... {len(found) - 5} more"] if len(found) > 5 else [])
        return "\n".join(lines)

    def raise_if_unusable(self) -> None:
        if self.errors:
            more = f" (and {len(self.errors) - 1} more problems: --mode=verify lists them)" if self.errors[1:] else ""
            raise UserError(f"{self.source}: {self.errors[0]}{more}. Nothing was built: download the archive again.")


# ---- one X-ray -------------------------------------------------------------------------------------------------------


def check_record(archive: Archive, record: Record, part: str) -> Checked:
    """Reads and examines the files of one X-ray."""
    wanted = {"image": record.image, "lung": record.lung}
    if part == "infection":
        wanted["infection"] = record.infection
    names = {"image": "image", "lung": "lung mask", "infection": "infection mask"}
    pixels, errors = {}, []
    for kind, entry in wanted.items():
        if entry is None:
            errors.append(f"{record.id} has no {names[kind]}")
            continue
        try:
            pixels[kind] = decode_gray_png(archive.read(entry))
            if kind != "image" and (bad := set(np.unique(pixels[kind]).tolist()) - {0, 255}):
                raise UserError(f"has the value {min(bad)} where a mask may hold only 0 and 255")
        except UserError as error:
            errors.append(f"the {names[kind]} of {record.id} {error}")
    if errors:
        return Checked(errors=tuple(errors))

    found = []
    if part == "infection":
        infected = pixels["infection"] > 0
        if record.label == "COVID-19" and not infected.any():
            found.append(f"the infection mask of {record.id} is blank")
        if record.label != "COVID-19" and infected.any():
            found.append(f"the infection mask of {record.id} is not blank")
        if outside := int((infected & (pixels["lung"] == 0)).sum()):
            found.append(f"{outside} infected pixels of {record.id} lie outside its lung mask")
    return Checked(
        warnings=tuple(found),
        digest=hashlib.sha256(pixels["image"].tobytes()).hexdigest(),
        hash=gradient_hash(pixels["image"]),
        masks={kind: _encode_mask(mask) for kind, mask in pixels.items() if kind != "image"},
    )


def decode_gray_png(data: bytes) -> np.ndarray:
    """uint8 [256, 256] from an 8-bit gray PNG; UserError says what is wrong with any other file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of a decompression bomb; here it is an error like any other
            image = Image.open(io.BytesIO(data), formats=["PNG"])
            if image.size != (SIZE, SIZE):
                raise UserError(f"is {image.size[0]}x{image.size[1]} pixels, not {SIZE}x{SIZE}")
            if image.mode != "L":
                raise UserError(f"has mode {image.mode}, not 8-bit gray (L)")
            return np.asarray(image)
    except UnidentifiedImageError as error:
        raise UserError(f"is not a PNG file ({len(data)} bytes)") from error
    except (OSError, SyntaxError, ValueError, EOFError, Warning, Image.DecompressionBombError) as error:
        raise UserError(f"is damaged ({error})") from error


def _encode_mask(mask: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray((mask > 0).astype(np.uint8)).save(data, "png", compress_level=1)
    return data.getvalue()


def gradient_hash(image: np.ndarray) -> bytes:
    """HASH_BITS bits: the signs of the horizontal differences of the image shrunk to 15 rows of 17 (dHash).

    Signs survive changes of contrast, brightness and compression; 64 bits are too few for chest X-rays, which all
    look alike.
    """
    small = np.asarray(Image.fromarray(image).resize((17, 15), Image.Resampling.BOX), np.int16)
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes()


# ---- all of them -----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def verify(path: pathlib.Path, part: str) -> tuple[Report, dict[str, dict[str, bytes]]]:
    """Examines every file of `part` of the archive at `path`, on all cores, with a progress bar.

    The result is kept: preparing the training and the evaluation dataset looks at the same files.

    Returns:
      The report; and for every X-ray id its masks re-encoded as PNG with values {0, 1}, ready to be stored.
    """
    archive = Archive(path)
    records = archive.records(part)
    checked = _check_all(archive, records, part)
    counts = {s: dict.fromkeys(CLASSES, 0) for s in SPLITS}
    for record in records:
        counts[record.split][record.label] += 1
    by_digest = collections.defaultdict(list)
    for record, result in zip(records, checked, strict=True):
        if result.digest:
            by_digest[result.digest].append(record)
    identical = sorted(
        (a.id, b.id) for group in by_digest.values() for a, b in itertools.combinations(group, 2) if a.split != b.split
    )
    near = near_pairs(records, checked, exclude=set(identical))
    report = Report(
        source=str(archive.path),
        fingerprint=archive.fingerprint,
        part=part,
        counts=counts,
        errors=tuple(e for c in checked for e in c.errors),
        warnings=(*_count_warnings(counts, part), *(w for c in checked for w in c.warnings)),
        identical=tuple(identical),
        near=tuple(near),
        near_bits=tuple(near.values()),
    )
    return report, {r.id: c.masks for r, c in zip(records, checked, strict=True)}


def _check_all(archive: Archive, records: list[Record], part: str) -> list[Checked]:
    bar = {"total": len(records), "unit": "X-ray", "desc": f"Checking {part} data", "dynamic_ncols": True}
    workers = len(os.sched_getaffinity(0))
    if workers == 1 or len(records) < 500:  # starting processes would take longer
        return [check_record(archive, record, part) for record in tqdm(records, **bar)]
    # Spawned, not forked: JAX's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(archive.path, part)
    ) as pool:
        return list(tqdm(pool.map(_check_in_worker, records, chunksize=32), **bar))


_worker: tuple[Archive, str]


def _start_worker(path: pathlib.Path, part: str) -> None:
    global _worker
    _worker = Archive(path), part


def _check_in_worker(record: Record) -> Checked:
    return check_record(_worker[0], record, _worker[1])


def _count_warnings(counts: dict[str, dict[str, int]], part: str) -> list[str]:
    found = []
    for (split, label), expected in PUBLISHED[part].items():
        n = sum(c[label] for c in counts.values()) if split == "all" else counts[split][label]
        if n != expected:
            found.append(f"{split} {label}: {n:,} X-rays, {expected:,} published")
    return found


def near_pairs(
    records: list[Record], checked: list[Checked], exclude: set[tuple[str, str]]
) -> dict[tuple[str, str], int]:
    """Pairs of ids in different splits whose hashes differ in at most NEAR_BITS bits, sorted: pair -> bits."""
    pairs = {}
    by_split = {
        s: [(r.id, c.hash) for r, c in zip(records, checked, strict=True) if r.split == s and c.hash] for s in SPLITS
    }
    words = {
        s: np.frombuffer(b"".join(h + bytes(-len(h) % 8) for _, h in items), np.uint64).reshape(len(items), -1)
        for s, items in by_split.items()
    }  # fmt: skip
    for left, right in itertools.combinations(SPLITS, 2):
        for start in range(0, len(words[left]), 256):
            block = words[left][start : start + 256, None]
            distance = sum(
                np.bitwise_count(block[..., i] ^ words[right][None, :, i]).astype(np.uint16)
                for i in range(block.shape[-1])
            )
            for i, j in zip(*np.nonzero(distance <= NEAR_BITS), strict=True):
                pair = by_split[left][start + i][0], by_split[right][j][0]
                if tuple(sorted(pair)) not in exclude and pair not in exclude:
                    pairs[pair] = int(distance[i, j])
    return dict(sorted(pairs.items()))
