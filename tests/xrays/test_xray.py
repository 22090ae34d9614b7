"""Files of any kind become the right gray pixels, or one sentence; sizes fit and come back; names stay inside."""

import io
import pathlib
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxunet.core.errors import UserError
from jaxunet.xrays import letterbox, streams
from jaxunet.xrays.files import XrayFiles, output_name
from jaxunet.xrays.read import read_xray
from tests.support.xrays import MISPLACED_NAMES, bomb, dicom, encoded, misplaced

RAMP = np.tile(np.arange(256, dtype=np.uint8), (64, 1))


# ---- PNG, JPEG, TIFF -------------------------------------------------------------------------------------------------


def test_8_bit_gray_is_taken_as_it_is():
    np.testing.assert_array_equal(read_xray(encoded(RAMP)).pixels, RAMP)
    np.testing.assert_array_equal(read_xray(encoded(RAMP, "tiff")).pixels, RAMP)
    assert np.abs(read_xray(encoded(RAMP, "jpeg", quality=95)).pixels.astype(int) - RAMP).max() <= 4


def test_colour_becomes_luminance_and_gray_in_colour_stays():
    found = read_xray(encoded(np.stack([RAMP] * 3, axis=-1)))
    np.testing.assert_array_equal(found.pixels, RAMP)
    assert found.notes == ()
    green = np.zeros((8, 8, 3), np.uint8)
    green[..., 1] = 200
    found = read_xray(encoded(green))
    assert set(found.pixels.ravel()) == {117}  # 0.587 * 200
    assert found.notes == ("a picture in colour",)
    with_alpha = np.dstack([green, np.full((8, 8), 9, np.uint8)])
    assert set(read_xray(encoded(with_alpha)).pixels.ravel()) == {117}


def test_palette_and_one_bit():
    palette = Image.fromarray(RAMP).convert("P", palette=Image.Palette.ADAPTIVE)
    data = io.BytesIO()
    palette.save(data, "png")
    np.testing.assert_array_equal(read_xray(data.getvalue()).pixels, RAMP)
    np.testing.assert_array_equal(read_xray(encoded(RAMP > 99)).pixels, np.where(RAMP > 99, 255, 0))


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_16_bits_are_stretched_over_their_range(kind, bits):
    pixels = np.tile(np.linspace(100, 2**bits - 1, 1000).astype(np.uint16), (50, 1))
    found = read_xray(encoded(pixels, kind)).pixels.astype(int)
    assert found.dtype == int
    assert (found.min(), found.max()) == (0, 255)
    assert np.all(np.diff(found[0]) >= 0)
    assert abs(found[0, 500] - 128) <= 2


def test_robust_to_a_few_wild_pixels():
    pixels = np.tile(np.linspace(1000, 2000, 1000).astype(np.uint16), (50, 1))
    pixels[0, :20] = 65535  # a burnt-in marker
    assert abs(int(read_xray(encoded(pixels)).pixels[10, 500]) - 128) <= 3


def test_float_tiff_with_nan():
    pixels = np.tile(np.linspace(-1, 1, 100, dtype=np.float32), (20, 1))
    pixels[3, 3] = np.nan
    found = read_xray(encoded(pixels, "tiff")).pixels
    assert found[3, 3] == 0
    assert abs(int(found[0, 50]) - 128) <= 3
    with pytest.raises(UserError, match="finite"):
        read_xray(encoded(np.full((4, 4), np.nan, np.float32), "tiff"))


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff"])
def test_exif_rotation_is_done(kind):
    pixels = np.zeros((32, 64), np.uint8)
    pixels[:, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise: what is at the left comes to the top
    found = read_xray(encoded(pixels, kind, exif=exif)).pixels
    assert found.shape == (64, 32)
    assert found[:24].min() > 200
    assert found[40:].max() < 50


@pytest.mark.parametrize("size", [(9000, 9001), (9900, 9900), (40000, 40000)])  # ours, Pillow's warning, its error
def test_bombs_are_refused_from_the_header(size, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UserError, match="million"):
        read_xray(bomb(*size))


@pytest.mark.parametrize(
    "data", [b"", b"hello", encoded(RAMP)[:150], encoded(RAMP, "jpeg")[:200], b"\x89PNG\r\n\x1a\n", bomb(100, 100)]
)
def test_damaged_files_are_one_sentence(data):
    with pytest.raises(UserError) as caught:
        read_xray(data)
    assert "\n" not in str(caught.value)


# ---- sizes -----------------------------------------------------------------------------------------------------------


def test_same_size_is_the_identity():
    rng = np.random.default_rng(0)
    image, logits = rng.integers(0, 256, (64, 64), np.uint8), rng.normal(size=(64, 64, 2)).astype(np.float32)
    square, at = letterbox.fit(image, 64)
    np.testing.assert_array_equal(square, image)
    np.testing.assert_array_equal(letterbox.restore(logits, at), logits)


def test_whole_factors_are_means_as_in_training():
    image = np.random.default_rng(0).integers(0, 256, (256, 256), np.uint8)
    means = image.reshape(128, 2, 128, 2).mean(axis=(1, 3))
    np.testing.assert_array_equal(letterbox.fit(image, 128)[0], np.rint(means).astype(np.uint8))


@pytest.mark.parametrize("shape", [(300, 200), (200, 301), (1000, 37), (64, 20), (1, 500), (5, 5)])
def test_shapes_come_back_and_places_agree(shape):
    """A bright quarter is where it was, at the image's own size, and margins are black and cut off again."""
    image = np.full(shape, 50, np.uint8)
    image[: (shape[0] + 1) // 2, : (shape[1] + 1) // 2] = 250
    square, at = letterbox.fit(image, 64)
    assert square.shape == (64, 64)
    margins = np.ones((64, 64), bool)
    margins[at.top : at.top + at.rows, at.left : at.left + at.columns] = False
    assert square[margins].max(initial=0) == 0
    assert max(at.rows, at.columns) == 64
    assert abs(at.rows / at.columns - shape[0] / shape[1]) < 0.05 * shape[0] / shape[1] or min(at.rows, at.columns) < 5
    back = letterbox.restore(square[..., None].astype(np.float32) - 150, at)[..., 0] > 0
    assert back.shape == shape
    assert np.mean(back == (image > 150)) > 0.9


@pytest.mark.parametrize("shape", [(2048, 1501), (1501, 2048)])
def test_where_one_axis_alone_divides_both_are_read_bilinearly(shape):
    """2048 is 8 x 256, but 1501 is no multiple of its 188: a triangle as wide as two pixels, along both axes."""

    def weights(n: int, out: int) -> np.ndarray:
        scale = n / out
        centres = (np.arange(out) + 0.5) * scale
        w = np.maximum(0, 1 - np.abs(np.arange(n) + 0.5 - centres[:, None]) / scale)
        return w / w.sum(axis=1, keepdims=True)

    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    square, at = letterbox.fit(image, 256)
    assert sorted((at.rows, at.columns)) == [188, 256]
    assert sorted((at.top, at.left)) == [0, 34]
    expected = weights(shape[0], at.rows) @ image @ weights(shape[1], at.columns).T
    inside = square[at.top : at.top + at.rows, at.left : at.left + at.columns]
    assert np.abs(inside - expected).max() < 0.51


# ---- where files lie -------------------------------------------------------------------------------------------------


def test_names_are_told_apart_and_stay_inside():
    names = ["a.png", "a.jpg", "a.jpg.png", "a", "a.PNG", "b/a.png", "../a.png", "../../a.png", "/a.png", "./a.png"]
    names += ["a%2E.png", "a:b.png", "a\\b.png", "a\nb.png", "a*b.png", "é.png", "a\udcff.png", "x" * 400 + ".png"]
    names += ["x" * 401 + ".png", "..", ".", "", "a//b.png", ".png", "1.2.840.10008"]
    made = [output_name(name) for name in names]
    assert len(set(made)) == len(names)
    for name in made:
        assert not name.startswith("/")
        for part in name.split("/"):
            assert part not in ("", ".", "..")
            assert len(part.encode("utf-8", "surrogateescape")) < 220
            assert not set(part) & set('\\:\n*?"<>|')
    assert output_name("Val/COVID-19/non_COVID (11).png") == "Val/COVID-19/non_COVID (11)"


def test_order_of_a_folder_and_what_is_no_source(tmp_path):
    """First its own files, then folder by folder; test_listing.py has what is listed."""
    folder = tmp_path / "in"
    for name in ("b.png", "a/d.dcm", "a/c.JPG", "1.png", "out/mask.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    files = XrayFiles(str(folder), skip=folder / "out")
    assert [f.name for f in files] == ["1.png", "b.png", "a/c.JPG", "a/d.dcm"] == [f.name for f in files]
    listed = [f.name for f in XrayFiles(str(folder / "**"), skip=folder / "out")]
    assert sorted(listed) == ["1.png", "a/c.JPG", "a/d.dcm", "b.png"]
    assert [f.name for f in XrayFiles(str(folder / "b.png"), skip=tmp_path)] == ["b.png"]
    with pytest.raises(UserError, match="choose another"):
        XrayFiles(str(folder), skip=folder)
    with pytest.raises(UserError, match="does not exist"):
        XrayFiles(str(tmp_path / "nothing"), skip=tmp_path)


def test_large_files_in_a_zip_are_not_unpacked(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"\0" * 100_000)
    monkeypatch.setattr("jaxunet.xrays.files.MAX_BYTES", 50_000)
    (file,) = XrayFiles(str(tmp_path / "in.zip"), skip=tmp_path)
    with pytest.raises(UserError, match="100,000 bytes"):
        file.read()


# ---- DICOM -----------------------------------------------------------------------------------------------------------


def lut(first: int, table: list[int]) -> object:
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'jaxunet[dicom]'")

    item = pydicom.Dataset()
    item.LUTDescriptor = [len(table), first, 16]
    item.add_new("LUTData", "OW", np.array(table, np.uint16).tobytes())
    item.LUTExplanation, item.ModalityLUTType = "", "US"
    return pydicom.Sequence([item])


DARK_TO_BRIGHT = np.tile(np.arange(1000, 2024, dtype=np.uint16), (16, 1))


def test_nothing_of_a_header_is_said_where_pydicom_would_warn(tmp_path):
    data = dicom(RAMP.astype(np.uint16), WindowCenter=127.5, WindowWidth=256).replace(b"1.2.3.4", b"Doe.3.4")
    (tmp_path / "odd.dcm").write_bytes(data)
    program = "import pathlib, sys\nfrom jaxunet.xrays.read import read_xray\n"
    program += "read_xray(pathlib.Path(sys.argv[1]).read_bytes())"
    command = [sys.executable, "-c", program, str(tmp_path / "odd.dcm")]
    done = subprocess.run(command, cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_dicom_window_and_monochrome1():
    values = DARK_TO_BRIGHT
    plain = read_xray(dicom(values, WindowCenter=[1512, 9], WindowWidth=[1025, 9])).pixels.astype(int)
    assert (plain[0, 0], plain[0, 512], plain[0, -1]) == (0, 128, 255)
    narrow = read_xray(dicom(values, WindowCenter=1512, WindowWidth=101)).pixels[0]
    assert (narrow[461], narrow[562], narrow[511]) == (0, 255, 126)  # 49.5 of 100
    negative = read_xray(
        dicom(values, WindowCenter=1512, WindowWidth=1025, PhotometricInterpretation="MONOCHROME1")
    ).pixels
    np.testing.assert_array_equal(negative, 255 - plain)
    exact = read_xray(dicom(values, WindowCenter=1512, WindowWidth=1024, VOILUTFunction="LINEAR_EXACT")).pixels[0]
    assert (exact[0], exact[512]) == (0, 128)
    sigmoid = read_xray(dicom(values, WindowCenter=1512, WindowWidth=512, VOILUTFunction="SIGMOID")).pixels[0]
    assert sigmoid[512] == 128
    assert sigmoid[512 + 128] == round(255 / (1 + np.exp(-1)))


def test_dicom_modality_lut_and_rescale():
    rescaled = read_xray(
        dicom(DARK_TO_BRIGHT, RescaleSlope=-1, RescaleIntercept=3023, WindowCenter=1512, WindowWidth=1025)
    )
    assert (rescaled.pixels[0, 0], rescaled.pixels[0, -1]) == (255, 0)
    steps = np.tile(np.arange(4, dtype=np.uint16), (4, 1))
    by_table = dicom(steps, ModalityLUTSequence=lut(0, [300, 200, 100, 0]), WindowCenter=150.5, WindowWidth=301)
    np.testing.assert_array_equal(read_xray(by_table).pixels[0], [255, 170, 85, 0])


def test_dicom_voi_lut_comes_before_the_window():
    steps = np.tile(np.arange(4, dtype=np.uint16), (4, 1))
    data = dicom(steps, VOILUTSequence=lut(0, [0, 65535, 32768, 0]), WindowCenter=1, WindowWidth=2)
    np.testing.assert_array_equal(read_xray(data).pixels[0], [0, 255, 128, 0])


def test_dicom_facts():
    found = read_xray(dicom(DARK_TO_BRIGHT, ImagerPixelSpacing=[0.2, 0.3], PatientOrientation=["R", "F"]))
    assert (found.spacing_mm, found.mirrored) == ((0.2, 0.3), True)
    found = read_xray(dicom(DARK_TO_BRIGHT, PixelSpacing=[0.1, 0.1], ImagerPixelSpacing=[0.2, 0.3], ViewPosition="LL"))
    assert (found.spacing_mm, found.mirrored, found.notes) == ((0.1, 0.1), False, ("view LL, not frontal",))
    assert read_xray(dicom(DARK_TO_BRIGHT, Modality="CT")).notes == ("modality CT, not radiography",)
    frames = read_xray(dicom(np.stack([DARK_TO_BRIGHT, DARK_TO_BRIGHT[:, ::-1]]), NumberOfFrames=2))
    assert frames.notes == ("first of 2 frames",)
    assert frames.pixels[0, 0] < frames.pixels[0, -1]


@pytest.mark.parametrize("odd", [b"1e9999", b"1e+300", b"-1e-30", b"00.000", b"   NaN"])
def test_dicom_spacing_is_a_length(odd):
    data = dicom(DARK_TO_BRIGHT, PixelSpacing=["1234.5", "0.3"], ImagerPixelSpacing=[0.2, 0.3])
    with warnings.catch_warnings(action="ignore"):
        assert read_xray(data.replace(b"1234.5", odd)).spacing_mm == (0.2, 0.3)


@pytest.mark.filterwarnings("ignore:Invalid value for VR")  # as the program itself has it
@pytest.mark.parametrize(("attributes", "said"), MISPLACED_NAMES)
def test_dicom_values_are_not_quoted(attributes, said):
    data = misplaced(DARK_TO_BRIGHT, attributes)
    if said is None:
        assert read_xray(data).notes == ("a modality other than radiography",)
        return
    with pytest.raises(UserError) as caught:
        read_xray(data)
    assert str(caught.value) == said


def test_dicom_that_cannot_be_used():
    for data, words in (
        (dicom(DARK_TO_BRIGHT, Rows=30000, Columns=30000), "million"),
        (dicom(DARK_TO_BRIGHT, Rows=17), "damaged"),
        (dicom(DARK_TO_BRIGHT, PhotometricInterpretation="PALETTE COLOR"), "convert it to MONOCHROME2"),
        (dicom(DARK_TO_BRIGHT)[:300], "holds no image"),
        (b"\0" * 128 + b"DICM" + b"rubbish" * 9, "."),
        (dicom(DARK_TO_BRIGHT, WindowCenter=5, WindowWidth=0), "WindowWidth"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            read_xray(data)
        assert "\n" not in str(caught.value)


def compressed(values: np.ndarray, syntax: str, **attributes: object) -> bytes:
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'jaxunet[dicom]'")
    header = pydicom.dcmread(io.BytesIO(dicom(values, WindowCenter=1512, WindowWidth=1025)))
    header.compress(syntax)
    for name, value in attributes.items():
        setattr(header, name, value)
    data = io.BytesIO()
    header.save_as(data)
    return data.getvalue()


def test_dicom_compressed():
    plain = read_xray(dicom(DARK_TO_BRIGHT, WindowCenter=1512, WindowWidth=1025)).pixels
    np.testing.assert_array_equal(read_xray(compressed(DARK_TO_BRIGHT, "1.2.840.10008.1.2.5")).pixels, plain)  # RLE
    pytest.importorskip("jpeg_ls", reason="pyjpegls is not installed: pip install 'jaxunet[dicom]'")
    jpeg_ls = "1.2.840.10008.1.2.4.80"
    np.testing.assert_array_equal(read_xray(compressed(DARK_TO_BRIGHT, jpeg_ls)).pixels, plain)
    with pytest.raises(UserError, match="compressed image claims"):
        read_xray(compressed(DARK_TO_BRIGHT, jpeg_ls, Rows=8))


def test_sizes_claimed_in_compressed_streams():
    """What decoders allocate memory for."""

    def claimed(data: bytes) -> tuple[int, int]:
        found = streams.describe(data)
        return found.height, found.width

    assert claimed(encoded(RAMP, "jpeg")) == (64, 256)
    assert claimed(encoded(RAMP, "jpeg2000", no_jp2=True)) == (64, 256)
    assert claimed(encoded(RAMP, "jpeg2000")) == (64, 256)
    with pytest.raises(UserError, match="how large"):
        claimed(b"\xff\xd8\xff")
