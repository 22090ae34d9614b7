"""`jaxunet data inspect FOLDER`: what a user's folder holds, as a table, and everything that is wrong with it."""

import collections
import json
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from jaxunet.core.errors import one_line, some
from jaxunet.data import draft, duplicates, folder_spec
from jaxunet.data.dataset_spec import SPLITS
from jaxunet.data.folder import FolderDataset, Record
from jaxunet.data.inspection import Checked, check_all


def inspect(path: pathlib.Path, output: pathlib.Path | None) -> int:
    """Prints what the folder `path` holds and everything that is wrong with it. Returns the exit status: 1 for faults.

    `output`: path of the dataset.json, which is read if it exists, else written; None for the folder itself.
    """
    if output and output.suffix != ".json":
        output = output / folder_spec.FILE
    place = output or path / folder_spec.FILE
    if place.exists():
        print(f"{place} exists: it is read, not changed.")
        text = place.read_text(encoding="utf-8-sig")
    else:
        text = json.dumps(draft.write(path, output))
    dataset = FolderDataset(path, folder_spec.parse(text, str(place)))
    records = dataset.found
    checked = list(check_all(dataset, records, build=False))
    print("\n".join(report(dataset, checked)))
    faults = [*dataset.faults, *(fault for c in checked for fault in c.faults), *empty_targets(dataset, checked)]
    for title, found in (("warnings", [*dataset.warnings, *_warnings(records, checked)]), ("faults", faults)):
        print(f"{title}: {len(found) or 'none'}")
        print("".join(f"  {one_line(sentence)}\n" for sentence in found), end="")
    return int(bool(faults))


def report(dataset: FolderDataset, checked: Sequence[Checked]) -> list[str]:
    """The table of what was found, as lines."""
    records, read = dataset.found, [c for c in checked if c.kind]
    lines = [f"{dataset.spec.title}: {len(records):,} X-rays in {dataset.path}"]
    for kind, number in sorted(collections.Counter(c.kind for c in read).items()):
        levels = [level for c in read if c.kind == kind for level in c.levels]
        lines.append(f"  {number:,} {kind}: gray levels {min(levels):g} to {max(levels):g}")
    if read:
        small, large = (pick((c.size for c in read), key=lambda size: (size[0] * size[1], size)) for pick in (min, max))
        sizes = len({c.size for c in read})
        lines.append("  {} x {} to {} x {} pixels (height x width), {:,} sizes".format(*small, *large, sizes))
    lines.append(f"{'target':20s}{'files':>9s}{'marked':>9s}{'empty':>9s}   median share of the X-ray where marked")
    for target in dataset.layout.masks:
        files = sum(record.masks.get(target) is not None for record in records)
        shares = [c.marked[target] / (c.size[0] * c.size[1]) for c in read if target in c.marked]
        marked = [share for share in shares if share]
        median = f"{np.median(marked):>12.2%}" if marked else ""
        lines.append(f"{target:20s}{files:>9,d}{len(marked):>9,d}{len(shares) - len(marked):>9,d}{median}")
    lines.append(f"{'split':20s}" + "".join(f"{split:>9s}" for split in SPLITS))
    for label in dataset.spec.classes:
        numbers = (sum(r.split == split and r.label == label for r in records) for split in SPLITS)
        lines.append(f"{'images' if label == folder_spec.ALL else label:20s}" + "".join(f"{n:>9,d}" for n in numbers))
    if patients := {r.patient for r in records if r.patient}:
        numbers = (len({r.patient for r in records if r.patient and r.split == split}) for split in SPLITS)
        lines.append(f"{len(patients):,} patients".ljust(20) + "".join(f"{n:>9,d}" for n in numbers))
    return lines


def empty_targets(dataset: FolderDataset, checked: Sequence[Checked]) -> Iterator[str]:
    """Faults: targets that no image has."""
    for target in dataset.layout.masks:
        marked = [c.marked[target] for c in checked if target in c.marked]
        if marked and not any(marked):
            yield f"No image has anything marked as {target!r}: look at its masks, or remove it from the targets."


def _warnings(records: Sequence[Record], checked: Sequence[Checked]) -> Iterator[str]:
    """What may be wrong with the pixels: duplicates, several ranges of gray levels, notes about single files."""
    both = zip(records, checked, strict=True)
    looks = [duplicates.Looks(r.id, r.split, c.digest, c.hash) for r, c in both if c.digest]
    patient = {r.id: r.patient for r in records}
    identical, near = duplicates.identical_pairs(looks, SPLITS), duplicates.near_pairs(looks, SPLITS)
    for words, pairs in (("the same picture", identical), ("nearly the same picture", list(near))):
        if pairs:
            yield f"In two splits, {words}: {some(f'{one} and {other}' for one, other in pairs)}."
    groups = collections.defaultdict(list)
    for look in looks:
        groups[look.digest, look.split].append(look.id)
    for (_, split), names in groups.items():
        if len(names) > 1:
            several = len({patient[name] for name in names}) > 1
            yield f"{some(names)} are the same picture, all in {split}{', of several patients' if several else ''}."
    ranges = collections.Counter(c.kind for c in checked if c.kind.endswith("bits used"))
    if len(ranges) > 1:
        words = ", ".join(f"{number:,} {kind}" for kind, number in sorted(ranges.items()))
        yield (
            f"Images of more than 8 bits have several ranges, as of different scanners ({words}): each is scaled by "
            f"its own 0.5 and 99.5 percentiles."
        )
    notes = collections.defaultdict(list)
    for record, found in zip(records, checked, strict=True):
        for note in found.notes:
            notes[note].append(record.id)
    for note, names in notes.items():
        yield f"{note}: {some(names)}."
