"""What is listed of a folder, pattern or zip, and what is left out and counted."""

import os
import pathlib
import warnings
import zipfile

import pytest

from jaxunet.core.errors import UserError
from jaxunet.xrays import listing
from jaxunet.xrays.files import XrayFiles, output_name
from jaxunet.xrays.read import read_xray
from tests.support.dicoms import IN_12, SHOWN, TWELVE, dicom_of
from tests.xrays.test_pixels import png_16

PNG = png_16(TWELVE[..., None])
DICOMDIR = b"\0" * 128 + b"DICM" + b"\2\0\2\0UI\x14\x001.2.840.10008.1.3.10\0"
WANTED = {"CR.1.2.840": b"\0" * 128 + b"DICM", "a/XRAY1.IMA": PNG, "a/image.001": PNG, "b.jfif": b"\xff\xd8\xff\xe0"}
WANTED |= {"c.PNG": b"damaged", "old": b"\x08\0\x05\0CS\x0a\0ISO_IR 100"}
LEFT_OUT = {
    "notes.txt": (b"x", listing.NO_PICTURE),
    "inner.zip": (b"PK\3\4", listing.NO_PICTURE),
    ".hidden.png": (PNG, listing.HIDDEN),
    "._c.PNG": (b"x", listing.HIDDEN),
    "DICOMDIR": (DICOMDIR, listing.DICOMDIR),
    "a/list": (DICOMDIR, listing.DICOMDIR),
    ".thumbnails/c.png": (PNG, listing.HIDDEN),
    "@eaDir/c.png": (PNG, listing.FOREIGN),
    "__MACOSX/._c.png": (b"x", listing.FOREIGN),
    "old_run/predictions.csv": (b"x", listing.NO_PICTURE),
    "old_run/masks/c_lung.png": (PNG, listing.OURS),
    "old_run/overlays/c.png": (PNG, listing.OURS),
}


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    for name, data in {**WANTED, **{name: data for name, (data, _) in LEFT_OUT.items()}}.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "in"


def listed(source: pathlib.Path | str) -> tuple[list[str], dict[str, int]]:
    files = XrayFiles(str(source), skip=pathlib.Path("/nowhere/out"))
    names = [file.name for file in files]
    assert names == [file.name for file in files]
    return names, dict(files.skipped)


def test_files_are_known_by_their_content(folder, tmp_path):
    names, skipped = listed(folder)
    assert sorted(names) == sorted(WANTED)
    some = {listing.NO_PICTURE: 3, listing.DICOMDIR: 2, listing.OURS: 2}
    assert skipped == some | {listing.HIDDEN: 3, listing.FOREIGN: 2}
    names, skipped = listed(folder / "**")
    assert sorted(names) == sorted(WANTED)
    assert skipped == some | {listing.FOREIGN: 1}
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    names, skipped = listed(tmp_path / "in.zip")
    assert sorted(names) == sorted(WANTED)
    assert sum(skipped.values()) == len(LEFT_OUT)
    files = XrayFiles(str(folder / "a"), skip=tmp_path / "out")
    assert (len(list(files)), files.left_out) == (2, " Left out: 1 DICOMDIR.")


def test_linked_folders_are_followed_once(folder, tmp_path):
    other = tmp_path / "other"
    (other / "deep").mkdir(parents=True)
    (other / "deep" / "x.png").write_bytes(PNG)
    (other / "up").symlink_to(folder)
    (other / "self").symlink_to(other)
    (folder / "linked").symlink_to(other)
    (folder / "again").symlink_to(folder / "a")
    (folder / "round").symlink_to(folder)
    (folder / "nothing.png").symlink_to(tmp_path / "gone")
    (folder / "endless.png").symlink_to(folder / "endless.png")
    os.mkfifo(folder / "pipe.png")
    names, skipped = listed(folder)
    assert sorted(names) == sorted([*WANTED, "linked/deep/x.png"])
    assert (skipped[listing.TWICE], skipped[listing.NOWHERE], skipped[listing.SPECIAL]) == (4, 2, 1)
    with pytest.raises(UserError, match="pipe or a device"):
        XrayFiles(str(folder / "pipe.png"), skip=tmp_path)
    assert "pipe.png" not in listed(folder / "*")[0]


def test_a_picture_with_a_zip_at_its_end_is_a_picture(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(PNG)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y.txt", "x")
    assert listed(path)[0] == ["x.png"]


def test_names_in_zips(tmp_path):
    path = tmp_path / "in.zip"
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w") as archive:
        for name in ("a.png", "a.png", "a (2).png", "a.png", "Muller.png"):
            archive.writestr(name, PNG)
    data = path.read_bytes().replace(b"Muller.png", "Müler.png".encode())
    path.write_bytes(data)
    names, _ = listed(path)
    assert names == ["a.png", "a (3).png", "a (2).png", "a (4).png", "Müler.png"]
    assert len({output_name(name) for name in names}) == 5


def test_one_bad_entry_fails_alone(tmp_path):
    path = tmp_path / "in.zip"
    long = "/".join(["d" * 100] * 50) + "/x.png"
    with zipfile.ZipFile(path, "w") as archive:
        for kind in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
            archive.writestr(f"bad{kind}.png", SHOWN.tobytes() * 3, kind)
        for name in (long, "a.png", "a.png/b.png", "a_infection.png/c.png", "a.seg.dcm/d.png"):
            archive.writestr(name, PNG)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist()[:4]:
            at = info.header_offset + 30 + len(info.filename)
            data[at + 4 : at + 24] = bytes(x ^ 0x5A for x in data[at + 4 : at + 24])
    path.write_bytes(data)
    failed = {}
    for file in XrayFiles(str(path), skip=tmp_path):
        try:
            read_xray(file.read())
        except UserError as error:
            failed[file.name] = str(error)
        made = tmp_path / "out" / f"{output_name(file.name)}.png"
        for output in (made, made.with_name(made.name[:-4] + "_infection.png"), made.with_suffix(".seg.dcm")):
            output.parent.mkdir(parents=True, exist_ok=True)
            assert not output.exists()
            output.write_bytes(b"x")
    assert list(failed) == [f"bad{kind}.png" for kind in (14, 12, 8, 0)]
    assert all("cannot be read from the zip" in sentence for sentence in failed.values())


def test_a_dicom_file_among_them_is_read(tmp_path):
    (tmp_path / "1.2.3.4.5-67").write_bytes(dicom_of(TWELVE, **IN_12))
    (file,) = XrayFiles(str(tmp_path), skip=tmp_path / "out")
    assert read_xray(file.read()).pixels.shape == (64, 64)
