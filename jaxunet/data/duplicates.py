"""Leaks between splits: finds identical and nearly identical X-rays in two splits, and draws the pairs.

Called by `verify.py`.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from jaxunet.core.pictures import png

# Images are nearly identical if their hashes differ in at most NEAR_BITS bits. In Train and Val of the infection part,
# all 9 pairs within 13 bits show one X-ray twice. From 16 bits on, pairs of different X-rays appear.
NEAR_BITS, HASH_BITS = 13, 240
MOST_PARTNERS = 10  # nearly identical images listed for one
MOST = 50  # pairs in one picture
_GAP, _TEXT, _COLUMNS = 4, 34, 3

Pair = tuple[str, str]  # ids


@dataclasses.dataclass(frozen=True)
class Looks:
    """What X-rays are compared by: `digest` of the pixels, and `hash`, see `gradient_hash`."""

    id: str
    split: str
    digest: str
    hash: bytes


def gradient_hash(image: np.ndarray) -> bytes:
    """HASH_BITS bits: the signs of the horizontal differences of the image shrunk to 15 rows of 17 (dHash).

    Signs survive changes of contrast, brightness and compression; 64 bits are too few for chest X-rays, which all
    look alike.
    """
    small = np.asarray(Image.fromarray(image).resize((17, 15), Image.Resampling.BOX), np.int16)
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes()


def identical_pairs(images: Sequence[Looks], splits: Sequence[str]) -> list[Pair]:
    """Pairs of ids in different splits with equal digests, sorted. Each such id is in at least one pair.

    Not all pairs are listed: the whole archive may be one group of identical images.
    """
    by_digest = collections.defaultdict(list)
    for image in images:
        by_digest[image.digest].append(image)
    return sorted(pair for group in by_digest.values() for pair in _across_splits(group, splits))


def _across_splits(group: list[Looks], splits: Sequence[str]) -> Iterator[Pair]:
    by_split = [[image.id for image in group if image.split == split] for split in splits]
    for left, right in itertools.combinations(by_split, 2):
        if left and right:
            yield from ((i, right[0]) for i in left)
            yield from ((left[0], i) for i in right[1:])


def near_pairs(images: Sequence[Looks], splits: Sequence[str]) -> dict[Pair, int]:
    """Pairs of ids in different splits, not identical, whose hashes differ in at most NEAR_BITS bits: pair -> bits.

    An id in the earlier split gets at most MOST_PARTNERS partners: in an archive of blank images all pairs are near.
    """
    pairs: dict[Pair, int] = {}
    by_split = {split: [image for image in images if image.split == split] for split in splits}
    words = {
        s: np.frombuffer(b"".join(i.hash + bytes(-len(i.hash) % 8) for i in items), np.uint64).reshape(-1, 4)
        for s, items in by_split.items()
    }
    for left, right in itertools.combinations(splits, 2):
        for start in range(0, len(words[left]), 256):
            block = words[left][start : start + 256, None]
            distance = sum(
                np.bitwise_count(block[..., i] ^ words[right][None, :, i]).astype(np.uint16) for i in range(4)
            )
            for i, row in enumerate(distance):
                one = by_split[left][start + i]
                others = ((by_split[right][j], int(row[j])) for j in np.flatnonzero(row <= NEAR_BITS))
                found = (((one.id, two.id), bits) for two, bits in others if one.digest != two.digest)
                pairs |= itertools.islice(found, MOST_PARTNERS)
    return dict(sorted(pairs.items()))


def draw(identical: Sequence[Pair], near: dict[Pair, int], pixels: Callable[[str], np.ndarray]) -> bytes | None:
    """PNG of the first `MOST` pairs: identical ones first, then by distance; None if there are no pairs.

    The text below a pair gives the ids and the number of differing bits. `pixels`: id -> the X-ray, uint8 [S, S].
    """
    pairs = [(pair, "every pixel equal") for pair in identical]
    by_distance = sorted(near.items(), key=lambda item: item[::-1])
    pairs += [(pair, f"{bits} of {HASH_BITS} bits differ") for pair, bits in by_distance]
    if not pairs:
        return None
    drawn, columns = pairs[:MOST], min(len(pairs), _COLUMNS)
    size = len(pixels(drawn[0][0][0]))
    w, h = 2 * size + 3 * _GAP, size + _TEXT + _GAP
    sheet = Image.new("RGB", (columns * w, -(-len(drawn) // columns) * h + _TEXT // 2), "white")
    text = ImageDraw.Draw(sheet)
    for i, (ids, words) in enumerate(drawn):
        left, top = i % columns * w, i // columns * h
        for side, name in enumerate(ids):
            at = left + _GAP + side * (size + _GAP)
            sheet.paste(Image.fromarray(pixels(name)), (at, top + _GAP))
            text.text((at, top + size + _GAP + 2), name, fill="black")
        text.text((left + _GAP, top + size + _GAP + 16), words, fill="black")
    text.text((_GAP, sheet.height - _TEXT // 2), f"{len(drawn)} of {len(pairs)} pairs in two splits", fill="black")
    return png(sheet)
