"""Looks at every file of the archive before anything learns from it: integrity, plausibility, leaks between splits."""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
import multiprocessing
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from jaxunet.core.errors import UserError, one_line
from jaxunet.core.pictures import png
from jaxunet.data.archive import CLASSES, PARTS, SPLITS, Archive, Record
from jaxunet.data.png import decode_gray_png

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
MOST_PARTNERS = 10  # nearly identical images listed for one


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
            lines += [f"  {one_line(text)}" for text in found[:5]]
            lines += [f"  ... {len(found) - 5} more"] if len(found) > 5 else []
        return "\n".join(lines)

    def raise_if_unusable(self) -> None:
        if self.errors:
            more = f" (and {len(self.errors) - 1} more problems: --mode=verify lists them)" if self.errors[1:] else ""
            raise UserError(f"{self.source}: {self.errors[0]}{more}. Nothing was built: download the archive again.")


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
                raise ValueError(f"has the value {min(bad)} where a mask may hold only 0 and 255")
        except (UserError, ValueError) as error:
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
        masks={
            kind: png((mask > 0).astype(np.uint8), compress_level=1) for kind, mask in pixels.items() if kind != "image"
        },
    )


def gradient_hash(image: np.ndarray) -> bytes:
    """HASH_BITS bits: the signs of the horizontal differences of the image shrunk to 15 rows of 17 (dHash).

    Signs survive changes of contrast, brightness and compression; 64 bits are too few for chest X-rays, which all
    look alike.
    """
    small = np.asarray(Image.fromarray(image).resize((17, 15), Image.Resampling.BOX), np.int16)
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes()


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
    identical = sorted(pair for group in by_digest.values() for pair in _pairs_across_splits(group))
    near = near_pairs(records, checked)
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


def _pairs_across_splits(group: list[Record]) -> Iterator[tuple[str, str]]:
    """Pairs of ids in different splits, each id in one at least; not all pairs: a group may be the whole archive."""
    by_split = {s: [r.id for r in group if r.split == s] for s in SPLITS}
    for left, right in itertools.combinations(by_split.values(), 2):
        if left and right:
            yield from ((i, right[0]) for i in left)
            yield from ((left[0], i) for i in right[1:])


def near_pairs(records: list[Record], checked: list[Checked]) -> dict[tuple[str, str], int]:
    """Pairs of ids in different splits, not identical, whose hashes differ in at most NEAR_BITS bits: pair -> bits.

    At most MOST_PARTNERS of an id in the earlier split: in an archive of blank images all are near to all.
    """
    pairs = {}
    by_split = {
        s: [(r.id, c) for r, c in zip(records, checked, strict=True) if r.split == s and c.hash] for s in SPLITS
    }
    words = {
        s: np.frombuffer(b"".join(c.hash + bytes(-len(c.hash) % 8) for _, c in items), np.uint64).reshape(-1, 4)
        for s, items in by_split.items()
    }  # fmt: skip
    for left, right in itertools.combinations(SPLITS, 2):
        for start in range(0, len(words[left]), 256):
            block = words[left][start : start + 256, None]
            distance = sum(
                np.bitwise_count(block[..., i] ^ words[right][None, :, i]).astype(np.uint16)
                for i in range(block.shape[-1])
            )
            for i, row in enumerate(distance):
                name, one = by_split[left][start + i]
                others = ((by_split[right][j], int(row[j])) for j in np.flatnonzero(row <= NEAR_BITS))
                found = (((name, other), bits) for (other, two), bits in others if one.digest != two.digest)
                pairs |= itertools.islice(found, MOST_PARTNERS)
    return dict(sorted(pairs.items()))
