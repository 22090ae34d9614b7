"""Verifies every file of an archive before training: integrity, plausible masks, leaks between splits."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxunet.core.errors import UserError, one_line
from jaxunet.core.files import write_atomically
from jaxunet.core.pictures import png
from jaxunet.core.processors import on_all_cores
from jaxunet.data import duplicates
from jaxunet.data.archive import Archive, Record
from jaxunet.data.dataset_spec import DatasetSpec
from jaxunet.data.png import decode_gray_png


@dataclasses.dataclass(frozen=True)
class Checked:
    """Findings about the files of one X-ray. `masks`: name -> PNG with values {0, 1}."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    digest: str = ""
    hash: bytes = b""
    masks: dict[str, bytes] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Report:
    """Findings about one part of an archive. `errors` stop a build, `warnings` do not."""

    source: str
    fingerprint: str
    part: str
    counts: dict[str, dict[str, int]]  # split -> class -> number of X-rays; the first split is the training split
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    identical: tuple[tuple[str, str], ...]  # pairs of ids in different splits
    near: tuple[tuple[str, str], ...]
    near_bits: tuple[int, ...]  # in which the hashes of each near pair differ
    contents: str = ""
    modified: str = ""

    @property
    def dropped_from_train(self) -> tuple[str, ...]:
        """The Train ids among the identical ones, which training leaves out by default."""
        train = next(iter(self.counts))
        return tuple(sorted({i for pair in self.identical for i in pair if i.startswith(f"{train}/")}))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"dropped_from_train": self.dropped_from_train}

    def table(self, title: str) -> str:
        """The findings as text under `title`. Lists are cut after 5 entries; `verify.json` has all."""
        classes = next(iter(self.counts.values()))
        lines = [f"{title} in {self.source}", f"{'':8s}" + "".join(f"{name:>11s}" for name in classes)]
        for split, counts in self.counts.items():
            lines.append(f"{split:8s}" + "".join(f"{n:>11,d}" for n in counts.values()))
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
            more = f" (and {len(self.errors) - 1} more errors: --mode=verify lists them)" if self.errors[1:] else ""
            raise UserError(f"{self.source}: {self.errors[0]}{more}. No dataset was built: download the archive again.")


def check_record(archive: Archive, part: str, record: Record) -> Checked:
    """Verifies the files of one X-ray."""
    spec = archive.spec
    pixels, errors = {}, []
    for kind in ("image", *spec.part_masks(part)):
        words = "image" if kind == "image" else f"{kind} mask"
        if kind not in record.files:
            errors.append(f"{record.id} has no {words}")
            continue
        try:
            pixels[kind] = decode_gray_png(archive.read(record.files[kind]), spec.size)
            if kind != "image" and (bad := set(np.unique(pixels[kind]).tolist()) - {0, 255}):
                raise ValueError(f"has the value {min(bad)}, but a mask may have only 0 and 255")
        except (UserError, ValueError) as error:
            errors.append(f"the {words} of {record.id} {error}")
    if errors:
        return Checked(errors=tuple(errors))
    warnings, image = tuple(_implausible(spec, record, pixels)), pixels.pop("image")
    return Checked(
        warnings=warnings,
        digest=hashlib.sha256(image.tobytes()).hexdigest(),
        hash=duplicates.gradient_hash(image),
        masks={kind: png((mask > 0).astype(np.uint8), compress_level=1) for kind, mask in pixels.items()},
    )


def _implausible(spec: DatasetSpec, record: Record, pixels: dict[str, np.ndarray]) -> Iterator[str]:
    """Warnings about masks that are marked in a control, blank in a positive image, or outside the organ."""
    for name in (name for name in pixels if name in spec.targets):
        target, marked = spec.targets[name], pixels[name] > 0
        if target.learnt_from and marked.any() != (record.label == spec.positive):
            yield f"the {name} mask of {record.id} is {'not ' if marked.any() else ''}blank"
        if target.within in pixels and (outside := int((marked & (pixels[target.within] == 0)).sum())):
            yield f"{outside} pixels of the {name} mask of {record.id} lie outside its {target.within} mask"


@functools.lru_cache(maxsize=2)
def verify(path: pathlib.Path, spec: DatasetSpec, part: str) -> tuple[Report, dict[str, dict[str, bytes]]]:
    """The report on every file of `part` of the archive at `path`, and X-ray id -> mask name -> PNG with values {0, 1}.

    The result is cached, because the training and the evaluation dataset use the same files.
    """
    archive, splits = Archive(path, spec), spec.layout.splits
    records = archive.records(part)
    check = functools.partial(check_record, archive, part)
    checked = list(on_all_cores(check, records, f"Checking {part} data", fewest=500))
    counts = {split: dict.fromkeys(spec.classes, 0) for split in splits}
    for record in records:
        counts[record.split][record.label] += 1
    pairs = zip(records, checked, strict=True)
    looks = [duplicates.Looks(r.id, r.split, c.digest, c.hash) for r, c in pairs if c.digest]
    near = duplicates.near_pairs(looks, splits)
    report = Report(
        source=str(archive.path),
        fingerprint=archive.fingerprint,
        part=part,
        counts=counts,
        errors=tuple(e for c in checked for e in c.errors),
        warnings=(*_count_warnings(counts, spec.layout.published[part]), *(w for c in checked for w in c.warnings)),
        identical=tuple(duplicates.identical_pairs(looks, splits)),
        near=tuple(near),
        near_bits=tuple(near.values()),
        contents=archive.contents(part) if not any(c.errors for c in checked) else "",
        modified=archive.modified(part),
    )
    return report, {r.id: c.masks for r, c in zip(records, checked, strict=True)}


def _count_warnings(counts: dict[str, dict[str, int]], published: dict[tuple[str, str], int]) -> list[str]:
    found = []
    for (split, label), expected in published.items():
        n = sum(c[label] for c in counts.values()) if split == "all" else counts[split][label]
        if n != expected:
            found.append(f"{split} {label}: {n:,} X-rays, {expected:,} published")
    return found


def write_findings(archive: Archive, out: pathlib.Path | None) -> int:
    """Prints the findings about every part that the archive has; writes `verify.json` and, where X-rays are in two
    splits, `duplicates_<part>.png` into `out`. Returns the exit status: 1 if a part cannot be used.
    """
    layout = archive.spec.layout
    parts = archive.parts or list(layout.parts)[:1]
    reports = [verify(archive.path, archive.spec, part)[0] for part in parts]
    print("\n\n".join(report.table(layout.parts[report.part]) for report in reports))
    if out:
        write_atomically(out / "verify.json", json.dumps([r.to_dict() for r in reports], indent=2) + "\n")
        print(f"Written to {out / 'verify.json'}")
        for report in reports:
            picture, path = draw_duplicates(archive, report), out / f"duplicates_{report.part}.png"
            path.unlink(missing_ok=True)  # may be left from an earlier archive
            if picture:
                write_atomically(path, picture)
                print(f"{path} shows the X-rays that are in two splits side by side.")
    return int(any(report.errors for report in reports))


def draw_duplicates(archive: Archive, report: Report) -> bytes | None:
    """PNG of the pairs in `report`; None if there are none."""
    images = {record.id: record.files.get("image", "") for record in archive.records(report.part)}  # no pair lacks one

    def pixels(name: str) -> np.ndarray:
        return decode_gray_png(archive.read(images[name]), archive.spec.size)

    return duplicates.draw(report.identical, dict(zip(report.near, report.near_bits, strict=True)), pixels)
