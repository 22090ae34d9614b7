"""What a DICOM file says of its samples is checked: whatever the layout, the picture that is read is the one stored."""

import io
import itertools

import numpy as np
import pytest

from jaxunet.core.errors import UserError
from jaxunet.xrays.read import read_xray
from tests.support.dicoms import BIG_ENDIAN, EIGHT, EXPLICIT, IMPLICIT, IN_12, SHOWN, TWELVE, dicom_of

RGB = np.stack([SHOWN] * 3, axis=-1)
GRAY_IN_COLOUR = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, **EIGHT}
SIXTEEN = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}
JPEG, JPEG_12, LOSSLESS = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.70"
JPEG_LS, JPEG_2000, RLE = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"


def resemblance(data: bytes, *, notes: tuple[str, ...] = ()) -> float:
    found = read_xray(data)
    assert found.pixels.shape == SHOWN.shape
    assert found.notes == notes
    return float(np.corrcoef(found.pixels.ravel(), SHOWN.ravel())[0, 1])


def codecs():
    return pytest.importorskip("imagecodecs", reason="imagecodecs is not installed: pip install 'jaxunet[dicom]'")


@pytest.mark.parametrize(("bits", "high"), [(12, 11), (12, 15), (12, 13), (10, 9), (16, 15), (14, 15)])
def test_bits_that_are_not_used_do_not_count(bits, high):
    shift, shown = high + 1 - bits, {"BitsStored": bits, "HighBit": high, "WindowWidth": 2**bits}
    values = SHOWN.astype(int) * (2**bits - 1) // 255
    unused = [bit for bit in range(16) if bit > high or bit < shift]
    for overlay in (0, *[1 << bit for bit in unused]):
        stored = values << shift
        stored[20:30, 20:40] |= overlay
        assert resemblance(dicom_of(stored.astype(np.uint16), WindowCenter=2 ** (bits - 1), **shown)) > 0.999
    signed = values - 2 ** (bits - 1)
    for stored in (signed << shift, (signed & (2**bits - 1)) << shift):  # the sign repeated in the unused bits, or not
        data = dicom_of(stored.astype(np.int64).astype(np.uint16), PixelRepresentation=1, WindowCenter=0, **shown)
        assert resemblance(data) > 0.999


def test_headers_that_are_wrong_about_bits():
    said = ("its header says 10 bits, which its samples are not",)
    assert resemblance(dicom_of(TWELVE, **IN_12 | {"BitsStored": 10, "HighBit": 9}), notes=said) > 0.999
    assert resemblance(dicom_of(TWELVE + 3, **IN_12 | {"HighBit": 15})) > 0.999
    planar = np.moveaxis(RGB, -1, 0)
    assert resemblance(dicom_of(planar.copy(), Pixels="OB", **GRAY_IN_COLOUR)) > 0.999


@pytest.mark.parametrize(("bits", "signed"), list(itertools.product((8, 16, 32), (0, 1))))
def test_every_width_sign_and_byte_order(bits, signed):
    values = (SHOWN / 256 * 2**bits - signed * 2 ** (bits - 1)).astype(f"{'ui'[signed]}{bits // 8}")
    layout = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": signed}
    for syntax in (EXPLICIT, IMPLICIT, BIG_ENDIAN):
        stored = values.astype(values.dtype.newbyteorder(">" if syntax == BIG_ENDIAN else "<"))
        if syntax == BIG_ENDIAN and bits == 8:
            stored = np.frombuffer(stored.tobytes(), np.uint16).byteswap()  # bytes in words
        assert resemblance(dicom_of(stored, syntax, **layout)) > 0.999


def test_one_bit_and_floating_point():
    one = dicom_of(np.packbits(SHOWN > 99, bitorder="little"), BitsAllocated=1, BitsStored=1, HighBit=0, Pixels="OB")
    np.testing.assert_array_equal(read_xray(one).pixels, np.where(SHOWN > 99, 255, 0))
    values = (SHOWN / 255).astype(np.float32)
    assert resemblance(dicom_of(None, FloatPixelData=values.tobytes(), BitsAllocated=32)) > 0.999
    values[:, :9] = -2000
    data = dicom_of(None, FloatPixelData=values.tobytes(), BitsAllocated=32, FloatPixelPaddingValue=-2000.0)
    found = read_xray(data).pixels
    assert found[:, :9].max() == 0
    assert np.corrcoef(found[:, 9:].ravel(), SHOWN[:, 9:].ravel())[0, 1] > 0.999


@pytest.mark.parametrize("overlay", [0, 1 << 12, 1 << 15])
def test_compressed_without_loss(overlay):
    library, stored, signed = codecs(), TWELVE.copy(), (TWELVE.astype(int) - 2048).astype(np.int16)
    stored[20:30, 20:40] |= overlay
    in_16 = IN_12 | {"BitsStored": 16, "HighBit": 15}
    for syntax, stream in (
        (JPEG_LS, library.jpegls_encode(stored)),
        (JPEG_2000, library.jpeg2k_encode(stored, codecformat="j2k", level=0)),
        (JPEG_2000, library.jpeg2k_encode(stored, codecformat="jp2", level=0)),
        (LOSSLESS, library.jpeg8_encode(stored, lossless=True, bitspersample=16)),
        (JPEG, library.jpegls_encode(stored)),  # the stream itself says what it is
    ):
        assert resemblance(dicom_of(None, syntax, stream=stream, **IN_12)) > 0.999
    stream = library.jpeg2k_encode(signed, codecformat="j2k", level=0)
    said = in_16 | {"PixelRepresentation": 1, "WindowCenter": 0}
    assert resemblance(dicom_of(None, JPEG_2000, stream=stream, **said)) > 0.999
    stream = library.jpeg2k_encode((signed & 4095).astype(np.uint16), codecformat="j2k", level=0)
    said = IN_12 | {"PixelRepresentation": 1, "WindowCenter": 0}
    assert resemblance(dicom_of(None, JPEG_2000, stream=stream, **said)) > 0.999


def test_compressed_with_loss_and_rle():
    library = codecs()
    pydicom = pytest.importorskip("pydicom")
    eight, twelve = library.jpeg8_encode(SHOWN, level=95), library.jpeg8_encode(TWELVE, level=95, bitspersample=12)
    assert resemblance(dicom_of(None, JPEG, stream=eight, **EIGHT)) > 0.99
    assert resemblance(dicom_of(None, JPEG_12, stream=twelve, **IN_12)) > 0.99
    assert np.corrcoef(read_xray(twelve).pixels.ravel(), SHOWN.ravel())[0, 1] > 0.99  # as a file of its own
    for data in (dicom_of(TWELVE, **IN_12), dicom_of(RGB, Pixels="OB", **GRAY_IN_COLOUR)):
        header, packed = pydicom.dcmread(io.BytesIO(data)), io.BytesIO()
        header.compress(RLE)
        header.save_as(packed)
        assert resemblance(packed.getvalue()) > 0.999


def test_gray_in_colour():
    planar = {"PlanarConfiguration": 1}
    wide = RGB.astype(np.uint16)
    luminance = np.stack([SHOWN, np.full_like(SHOWN, 128), np.full_like(SHOWN, 128)], axis=-1)
    halved = np.concatenate([SHOWN.reshape(64, 32, 2), np.full((64, 32, 2), 128, np.uint8)], axis=-1)
    for pixels, layout in (
        (RGB, {}),
        (np.moveaxis(RGB, -1, 0).copy(), planar),
        (np.moveaxis(wide * 257, -1, 0).copy(), planar | SIXTEEN),
        (wide * 16, SIXTEEN | {"BitsStored": 12, "HighBit": 11}),
        (wide << 8, SIXTEEN | {"BitsStored": 12}),
        (wide, SIXTEEN | {"BitsStored": 8, "HighBit": 7}),
        (luminance, {"PhotometricInterpretation": "YBR_FULL"}),
        (np.moveaxis(luminance, -1, 0).copy(), planar | {"PhotometricInterpretation": "YBR_FULL"}),
        (halved, {"PhotometricInterpretation": "YBR_FULL_422"}),
    ):
        layout = GRAY_IN_COLOUR | layout
        data = dicom_of(pixels, Pixels="OB" if layout["BitsAllocated"] == 8 else "OW", **layout)
        assert resemblance(data) > 0.999, layout


def test_what_a_compressed_stream_says_of_its_colours():
    library = codecs()
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = SHOWN
    plain = library.jpeg8_encode(red, level=98, colorspace="RGB", outcolorspace="RGB", subsampling="444")
    for kind in ("RGB", "YBR_FULL", "YBR_FULL_422"):  # what the header says counts where the stream does not say it
        for stream in (library.jpeg8_encode(red, level=98, subsampling="444"), plain):
            said = GRAY_IN_COLOUR | {"PhotometricInterpretation": kind}
            found = read_xray(dicom_of(None, JPEG, stream=stream, **said)).pixels
            assert abs(found.astype(int) - SHOWN * 0.299).max() < 6
    stream = library.jpeg2k_encode(red, codecformat="j2k", level=0)
    said = GRAY_IN_COLOUR | {"PhotometricInterpretation": "YBR_RCT"}
    assert abs(read_xray(dicom_of(None, JPEG_2000, stream=stream, **said)).pixels - SHOWN * 0.299).max() < 1


@pytest.mark.parametrize(
    ("syntax", "said"),
    [("1.2.840.10008.1.2.4.102", "video"), ("1.2.840.10008.1.2.4.94", "JPIP"), (JPEG, "damaged")],
)
def test_what_is_not_supported_is_named(syntax, said):
    with pytest.raises(UserError, match=said):
        read_xray(dicom_of(None, syntax, stream=b"no picture at all", **EIGHT))
