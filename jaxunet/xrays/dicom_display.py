"""The numbers of a DICOM image -> gray pixels, as its header says they are to be shown (PS3.3 C.11 and C.7.6.3)."""

import numpy as np

from jaxunet.core.errors import UserError
from jaxunet.xrays.attributes import Attributes
from jaxunet.xrays.pixels import IN_COLOUR, luminance, roughness, shown, stretch, to_8_bits, with_sign

_GRAY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


def gray(stored: np.ndarray, said: Attributes, *, big_endian: bool) -> tuple[np.ndarray, list[str]]:
    """uint8 [H, W], white being dense, and what is to be said about it.

    `stored`: numbers [H, W, channels] of as many bits as are allocated. `big_endian`: the order of the header's tables.
    Raises UserError if the header contradicts itself, or wants what is not supported.
    """
    kind = photometric(said)
    notes: list[str] = []
    values = stored if stored.dtype.kind == "f" else significant(stored, said, notes)
    if stored.shape[2] == 3:
        return _of_colours(values, notes), notes
    values, outside = values[..., 0], _padding(stored[..., 0], values[..., 0], said)
    if kind == "PALETTE COLOR":
        return shown(values, _of_palette(values, said, big_endian, notes), outside=outside), notes
    values = _modality(values, said, big_endian)
    by_table = _by_table(values, said, big_endian)
    eight = _by_window(values, said) if by_table is None else by_table
    if eight is not None and eight.min() == eight.max() and values.min() < values.max():
        notes.append("its window shows nothing, so the 0.5 and 99.5 percentiles were used")
        eight = None
    shape = said.text("PresentationLUTShape")
    if kind == "MONOCHROME1" and shape == "IDENTITY":
        notes.append("PhotometricInterpretation and PresentationLUTShape contradict each other: it may be inverted")
    return shown(values, eight, negative=kind == "MONOCHROME1" or shape == "INVERSE", outside=outside), notes


def photometric(said: Attributes) -> str:
    """PhotometricInterpretation. Raises UserError if it is not supported."""
    channels = said.count("SamplesPerPixel", 1)
    kind = said.text("PhotometricInterpretation") or ("MONOCHROME2" if channels == 1 else "RGB")
    if channels != (1 if kind in _GRAY else 3) or kind not in _GRAY and not kind.startswith(("RGB", "YBR")):
        raise UserError("its PhotometricInterpretation is not supported: convert it to MONOCHROME2.")
    return kind


# ---- which bits count ------------------------------------------------------------------------------------------------


def significant(stored: np.ndarray, said: Attributes, notes: list[str]) -> np.ndarray:
    """The numbers in the bits that the header says are used.

    Others may hold overlays. Where the header is wrong, numbers wrap around: of both readings, that with the smaller
    differences between neighbours is taken, and `notes` gets a sentence.

    `stored`: whole numbers [H, W, channels], signed or not as their decoder gave them.
    """
    allocated = stored.dtype.itemsize * 8
    bits = said.count("BitsStored", allocated) or allocated
    signed = said.count("PixelRepresentation", 0) == 1
    shift = said.count("HighBit", bits - 1) + 1 - bits
    if bits > allocated:
        notes.append(f"its header says {bits} bits, its samples have {allocated}")
        bits, shift = allocated, 0
    whole = stored.view(f"u{allocated // 8}")
    if not 0 <= shift <= allocated - bits:
        shift = 0
    if shift and not (whole >> bits).any() and (whole & (2**shift - 1)).any():
        shift = 0  # HighBit is wrong: the lowest bits are used, the highest are not
    if stored.dtype.kind == "u" and not signed and not shift and int(whole.max()) < 2**bits:
        return whole  # most are like that
    values = _in_bits(whole >> shift, bits, signed)
    as_stored = stored if stored.dtype.kind == "i" else _in_bits(whole, allocated, signed)
    if shift or bits == allocated and (stored.dtype.kind == "i") == signed or np.array_equal(values, as_stored):
        return values
    in_overlay = any(said.number(f"OverlayBitPosition{i}", 0) >= bits for i in range(16))  # above the brightness
    if in_overlay or roughness(values[..., 0]) <= roughness(as_stored[..., 0]):
        return values
    notes.append(f"its header says {bits} bits{' with a sign' * signed}, which its samples are not")
    return as_stored


def _in_bits(whole: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    if bits == whole.dtype.itemsize * 8:
        return whole.view(f"i{bits // 8}") if signed else whole
    if not signed:
        return whole & whole.dtype.type(2**bits - 1)
    return with_sign(whole, bits).astype(f"i{whole.dtype.itemsize}")


def _padding(stored: np.ndarray, values: np.ndarray, said: Attributes) -> np.ndarray | None:
    """bool [H, W]: what is outside the X-ray, by PixelPaddingValue and PixelPaddingRangeLimit; None if nothing is.

    Both may be written with or without a sign, whatever the samples are.
    """
    prefix = {4: "Float", 8: "DoubleFloat"}[values.itemsize] if values.dtype.kind == "f" else ""
    ends = said.numbers(f"{prefix}PixelPaddingValue")[:1]
    if not ends or not np.isfinite(ends[0]):
        return None
    ends += said.numbers(f"{prefix}PixelPaddingRangeLimit")[:1]
    if values.dtype.kind == "f":
        return (values >= min(ends)) & (values <= max(ends))
    allocated = stored.dtype.itemsize * 8
    width = max(allocated, 16)
    whole = [int(end) % 2**width for end in ends]
    if values.dtype.kind == "i":
        whole = [end - 2**width if end >= 2 ** (width - 1) else end for end in whole]
    low, high = min(whole), max(whole)
    outside = (values.astype(np.int64) >= low) & (values.astype(np.int64) <= high)
    if not outside.any() and len(ends) == 1:  # a value that needs more bits than are used for brightness
        outside = stored.view(f"u{allocated // 8}") == int(ends[0]) % 2**allocated
    return outside if outside.any() else None


# ---- tables and windows ----------------------------------------------------------------------------------------------


def _modality(values: np.ndarray, said: Attributes, big_endian: bool) -> np.ndarray:
    for item in said.items("ModalityLUTSequence"):
        if (table := _table(Attributes(item), "LUT", big_endian)) is not None:
            return _look_up(values, table)
    slope, intercept = said.number("RescaleSlope", 1) or 1.0, said.number("RescaleIntercept", 0)
    if (slope, intercept) == (1, 0) or not np.isfinite([slope, intercept]).all():
        return values
    return values.astype(np.float64) * slope + intercept


def _by_table(values: np.ndarray, said: Attributes, big_endian: bool) -> np.ndarray | None:
    """uint8 [H, W] by the first VOI LUT that is not empty.

    Black and white are 0 and the largest number of as many bits as the table uses, whatever its descriptor says.
    """
    for item in said.items("VOILUTSequence"):
        table = _table(Attributes(item), "LUT", big_endian)
        if table is not None and table[1].max() > table[1].min():
            bits = max(int(table[1].max()).bit_length(), min(8, table[2]))
            return stretch(_look_up(values, table), 0, 2**bits - 1)
    return None


def _table(said: Attributes, name: str, big_endian: bool) -> tuple[int, np.ndarray, int] | None:
    """The first number that a table maps, its entries, and their bits as declared; None if there is no table.

    Entries of 8 bits may be in words or packed, whatever the descriptor says: how long the table is, tells.
    """
    descriptor, data = said.numbers(f"{name}Descriptor"), said.get(f"{name}Data")
    if len(descriptor) != 3 or data is None:
        return None
    count, first, bits = int(descriptor[0]) % 2**16 or 2**16, int(descriptor[1]), int(descriptor[2])
    words = np.dtype(">u2" if big_endian else "<u2")
    if not isinstance(data, bytes):
        data = np.atleast_1d(np.array(data, np.int64) % 2**16).astype(words).tobytes()
    if len(data) in (count, count + 1):
        table = np.frombuffer(data, np.uint8)
        if big_endian:  # swapped in pairs, as words are
            table = table[: len(table) // 2 * 2].reshape(-1, 2)[:, ::-1].ravel()
    else:
        table = np.frombuffer(data[: len(data) // 2 * 2], words).astype(np.uint16)
    return (first, table[:count], bits) if len(table) else None


def _look_up(values: np.ndarray, table: tuple[int, np.ndarray, int]) -> np.ndarray:
    first, entries, _ = table
    low, high = values.min(), values.max()
    other = first - 2**16 if first >= 2**15 else first + 2**16 if first < 0 else first  # read with the other sign
    if (high < first or low >= first + len(entries)) and not (high < other or low >= other + len(entries)):
        first = other
    numbers = values if values.dtype.kind in "iu" else np.rint(values)
    return entries[np.clip(numbers.astype(np.int64) - first, 0, len(entries) - 1)]


def _by_window(values: np.ndarray, said: Attributes) -> np.ndarray | None:
    """uint8 [H, W] by the first window that can be used; None if there is none."""
    windows = list(zip(said.numbers("WindowCenter"), said.numbers("WindowWidth"), strict=False))
    function = said.text("VOILUTFunction") or "LINEAR"
    usable = [(c, w) for c, w in windows if np.isfinite([c, w]).all() and w > 0 and (w >= 1 or function != "LINEAR")]
    return window(values, *(usable or windows)[0], function) if windows else None


def window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """uint8, of the shape of `values`: the window functions of DICOM PS3.3 C.11.2, to [0, 255].

    Raises UserError if there is no such function or the width is too small.
    """
    if function not in _FUNCTIONS:
        raise UserError("its VOILUTFunction is not LINEAR, LINEAR_EXACT or SIGMOID.")
    if not np.isfinite(center) or not (width >= 1 or function != "LINEAR" and width > 0) or not np.isfinite(width):
        raise UserError(f"its WindowWidth {width} is too small.")
    if function == "LINEAR":
        if width == 1:
            return np.where(values > center - 0.5, 255, 0).astype(np.uint8)
        return stretch(values, center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)
    if function == "LINEAR_EXACT":
        return stretch(values, center - width / 2, center + width / 2)
    exponent = np.clip(-4 * (values.astype(np.float64) - center) / width, -80, 80)
    return np.rint(255 / (1 + np.exp(exponent))).astype(np.uint8)


def _of_colours(values: np.ndarray, notes: list[str]) -> np.ndarray:
    """Gray of red, green and blue [H, W, 3]; of more than 8 bits, percentiles say what is black and white."""
    if values.max() <= 255 and values.min() >= 0:
        values = values.astype(np.uint8)
    pixels, coloured = luminance(values)
    notes += [IN_COLOUR] * coloured
    return pixels if pixels.dtype == np.uint8 else to_8_bits(pixels)


def _of_palette(values: np.ndarray, said: Attributes, big_endian: bool, notes: list[str]) -> np.ndarray:
    """Gray of numbers of colours [H, W]; the tables count with as many bits as they use."""
    tables = [_table(said, f"{name}PaletteColorLookupTable", big_endian) for name in ("Red", "Green", "Blue")]
    colours = [_look_up(values, table) for table in tables if table is not None]
    if len(colours) < 3:
        raise UserError("its table of colours is missing or damaged: convert it to MONOCHROME2.")
    largest = max(int(table[1].max()) for table in tables if table is not None)
    return _of_colours(np.stack(colours, axis=-1) >> max(largest.bit_length() - 8, 0), notes)
