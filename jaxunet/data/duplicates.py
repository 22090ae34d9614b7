"""Pictures of the X-rays that verification found in two splits, side by side, for people to judge."""

from PIL import Image, ImageDraw

from jaxunet.core.pictures import png
from jaxunet.data.archive import Archive
from jaxunet.data.png import SIZE, decode_gray_png
from jaxunet.data.verify import HASH_BITS, Report

MOST = 50  # pairs in one picture
_GAP, _TEXT, _COLUMNS = 4, 34, 3


def draw(archive: Archive, report: Report) -> bytes | None:
    """PNG of the first `MOST` pairs of `report`: identical ones, then by distance; None if there are no pairs.

    Each pair has its ids, which name the splits, and how many bits of the hashes differ.
    """
    pairs = [(0, pair, "every pixel equal") for pair in report.identical]
    pairs += sorted(
        (bits, pair, f"{bits} of {HASH_BITS} bits differ")
        for pair, bits in zip(report.near, report.near_bits, strict=True)
    )
    if not pairs:
        return None
    entries = {record.id: record.image for record in archive.records(report.part)}
    drawn, columns = pairs[:MOST], min(len(pairs), _COLUMNS)
    w, h = 2 * SIZE + 3 * _GAP, SIZE + _TEXT + _GAP
    sheet = Image.new("RGB", (columns * w, -(-len(drawn) // columns) * h + _TEXT // 2), "white")
    text = ImageDraw.Draw(sheet)
    for i, (_, ids, words) in enumerate(drawn):
        left, top = i % columns * w, i // columns * h
        for side, name in enumerate(ids):
            at = left + _GAP + side * (SIZE + _GAP)
            sheet.paste(Image.fromarray(decode_gray_png(archive.read(entries[name]))), (at, top + _GAP))
            text.text((at, top + SIZE + _GAP + 2), name, fill="black")
        text.text((left + _GAP, top + SIZE + _GAP + 16), words, fill="black")
    text.text((_GAP, sheet.height - _TEXT // 2), f"{len(drawn)} of {len(pairs)} pairs in two splits", fill="black")
    return png(sheet)
