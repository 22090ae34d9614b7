"""COVID-QU-Ex: finding, verifying and building it, sound and damaged."""

import errno
import io
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import default
from jaxunet import commands
from jaxunet.core.errors import UserError, run_or_explain
from jaxunet.data import duplicates, prepared, verify
from jaxunet.data.archive import Archive, find_archive
from jaxunet.data.specs import COVID_QU_EX
from jaxunet.training.task import load_segmentation_data
from tests.support.fake_archive import ROOT, fake_files, png, real_archive, square, write_folder, write_zip, xray
from tests.support.xrays import bomb, encoded

COVID = f"{ROOT}/Train/COVID-19"
REPOSITORY = pathlib.Path(__file__).parents[2]


def settings(source: pathlib.Path | str, data_dir: pathlib.Path) -> ConfigDict:
    return ConfigDict({"name": "covid_qu_ex", "source": str(source), "data_dir": str(data_dir)})


def write_findings(source: pathlib.Path, data_dir: pathlib.Path, out: pathlib.Path | None) -> int:
    return verify.write_findings(prepared.archive_of(settings(source, data_dir)), out)


def finished(data_dir: pathlib.Path) -> list[pathlib.Path]:
    return list(data_dir.glob("covid_qu_ex/*/1.0.0"))


# ---- finding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_a_zip_and_a_folder_give_the_same_records(kind, tmp_path):
    """Whatever programs left there; for other names of folders see test_spellings.py."""
    junk = [f"{COVID}/images/{name}" for name in (".DS_Store", "Thumbs.db", "._covid_1.png")]
    files = fake_files() | dict.fromkeys(["__MACOSX/._x.png", *junk], b"junk")
    path = (write_zip if kind == "zip" else write_folder)(tmp_path / "any name", files)
    archive = find_archive(COVID_QU_EX, str(path), tmp_path)
    records = archive.records("infection")
    assert len(records) == 18
    assert records[0].id == "Test/COVID-19/covid_13.png"
    assert all(r.files.keys() == {"image", "lung", "infection"} for r in records)
    assert archive.read(records[0].files["image"]) == files[f"{ROOT}/Test/COVID-19/images/covid_13.png"]


def test_found_in_the_manual_folder(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    write_zip(manual / "another.zip", {"x.txt": b""})
    write_zip(manual / "browser download.zip", fake_files())
    assert find_archive(COVID_QU_EX, "", tmp_path).path.name == "browser download.zip"
    (manual / "browser download.zip").unlink()
    write_folder(manual / "covidqu", fake_files())
    assert len(find_archive(COVID_QU_EX, "", tmp_path).records("infection")) == 18


def test_absent_archive_says_what_to_download_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    monkeypatch.delenv("KAGGLE_USERNAME", raising=False)
    with pytest.raises(UserError, match="anasmohammedtahir/covidqu.*put the zip.*downloads/manual.*dataset.source="):
        find_archive(COVID_QU_EX, "", tmp_path)


def test_links_that_leave_the_folder_are_refused(tmp_path):
    folder = write_folder(tmp_path / "extracted", fake_files())
    (folder / COVID / "images" / "covid_99.png").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match=r"covid_99.png is a link that leaves"):
        find_archive(COVID_QU_EX, str(folder), tmp_path)


# ---- damage ----------------------------------------------------------------------------------------------------------

IMAGE = f"{COVID}/images/covid_1.png"
MASK = f"{COVID}/infection masks/covid_1.png"
GRAY = square(60, 90)
GRAY[0, 0] = 128


DAMAGE = {
    "corrupt": ({IMAGE: png(xray(1))[:2000]}, r"the image of Train/COVID-19/covid_1.png is damaged"),
    "zero-byte": ({IMAGE: b""}, r"the image of Train/COVID-19/covid_1.png is not a PNG file \(0 bytes\)"),
    "not a png": ({IMAGE: b"GIF89a" * 99}, r"is not a PNG file"),
    "rgb": ({IMAGE: png(np.zeros((256, 256, 3), np.uint8))}, r"covid_1.png has mode RGB, not 8-bit gray"),
    "16-bit": ({IMAGE: png(np.zeros((256, 256), np.uint16))}, r"covid_1.png has mode I;16, not 8-bit gray"),
    "palette": ({IMAGE: encoded(Image.new("P", (256, 256)))}, r"has mode P"),
    "wrong size": ({IMAGE: png(np.zeros((128, 256), np.uint8))}, r"covid_1.png is 256x128 pixels, not 256x256"),
    "decompression bomb": ({IMAGE: bomb(65536, 65536)}, r"covid_1.png is 65536x65536 pixels, not 256x256"),
    "huge file": ({IMAGE: bytes(20_000_000)}, r"claims 20,000,000 bytes"),
    "gray mask": ({MASK: png(GRAY)}, r"the infection mask of .*covid_1.png has the value 128, but a mask may have"),
    "missing mask": ({MASK: None}, r"Train/COVID-19/covid_1.png has no infection mask"),
    "missing image": ({IMAGE: None}, r"Train/COVID-19/covid_1.png has no image"),
    "leaving entry": ({"../../evil.png": b""}, r"an entry that leaves its folder \('../../evil.png'\)"),
    "absolute entry": ({"/etc/evil.png": b""}, r"an entry that leaves its folder \('/etc/evil.png'\)"),
    "twice": ({f"other/{IMAGE}": b"x"}, r"holds covid_1.png twice"),
    "missing split": (
        {name: None for name in fake_files() if "/Val/" in name},
        "has no X-rays in 'Infection Segmentation Data/Val'",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_leaves_nothing_finished(name, tmp_path):
    changes, sentence = DAMAGE[name]
    files = {n: d for n, d in (fake_files() | changes).items() if d is not None}
    path = write_zip(tmp_path / "covidqu.zip", files)
    with pytest.raises(UserError, match=sentence) as raised:
        prepared.open_builder(settings(path, tmp_path / "data"), "infection")
    assert "\n" not in str(raised.value)
    assert not finished(tmp_path / "data")
    assert not (tmp_path / "evil.png").exists()


@pytest.mark.parametrize("keep", [0, 100, 60_000, None])
def test_truncated_zip_and_flipped_bytes(keep, tmp_path):
    path = write_zip(tmp_path / "a.zip", fake_files())
    data = path.read_bytes()
    at = data.index(b"IDAT") + 50
    path.write_bytes(data[:at] + b"oops" + data[at + 4 :] if keep is None else data[:keep])
    words = r"cannot be read \(Bad CRC-32" if keep is None else "a.zip is not a complete zip file .*: download it again"
    with pytest.raises(UserError, match=words):
        prepared.open_builder(settings(path, tmp_path / "data"), "infection")


def test_absent_source(tmp_path):
    with pytest.raises(UserError, match="nowhere.zip does not exist"):
        prepared.open_builder(settings(tmp_path / "nowhere.zip", tmp_path), "infection")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "x"),
        OSError(errno.EACCES, "Permission denied", "x"),
        ValueError("RESOURCE_EXHAUSTED: Failed to write 23439 bytes to file 12: No space left on device [28]"),
        RuntimeError('Failed to finalize writing of split "train": write() failed: No space left on device; writing'),
    ],
)
def test_full_or_unwritable_disk_is_a_sentence(error, capsys):
    """As Python, Orbax and array_record put it, raised while another error is handled."""

    def fail() -> None:
        try:
            raise error
        except Exception as inner:
            raise RuntimeError("while saving") from inner

    assert run_or_explain(fail) == 1
    words = "Permission denied" if getattr(error, "errno", 0) == errno.EACCES else "No space left on device"
    assert capsys.readouterr().err.startswith(f"error: {words}")


def test_other_errors_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_or_explain(lambda: 1 // 0)


# ---- verification ----------------------------------------------------------------------------------------------------


@pytest.fixture
def leaking(tmp_path) -> pathlib.Path:
    """Train covid_1 is Val covid_7; Train covid_2 is Test covid_13 with other contrast; oddities in masks."""
    files = fake_files()
    files[f"{COVID}/images/covid_1.png"] = png(xray(7))
    files[f"{COVID}/images/covid_2.png"] = png((xray(13) * 0.7 + 20).astype(np.uint8))
    files[f"{COVID}/infection masks/covid_2.png"] = png(square(0, 0))
    files[f"{ROOT}/Val/COVID-19/infection masks/covid_7.png"] = png(square(30, 50))
    files[f"{ROOT}/Val/Normal/infection masks/Normal (11).png"] = png(square(60, 61))
    return write_zip(tmp_path / "leaking.zip", files)


@pytest.fixture(scope="module")
def leaking_dir(tmp_path_factory) -> pathlib.Path:
    """Datasets of which Train covid_1 is Val covid_10, covid_2 is Test covid_19 with other contrast, covid_3 sound."""
    folder, files = tmp_path_factory.mktemp("leaking"), fake_files(per_class=3)
    files[f"{COVID}/images/covid_1.png"] = png(xray(10))
    files[f"{COVID}/images/covid_2.png"] = png((xray(19) * 0.7 + 20).astype(np.uint8))
    path = write_zip(folder / "leaking.zip", files)
    for name in ("infection", "infection_all"):
        prepared.open_builder(settings(path, folder), name)
    return folder


def test_findings(leaking):
    report, masks = verify.verify(leaking, COVID_QU_EX, "infection")
    assert not report.errors
    assert report.identical == (("Train/COVID-19/covid_1.png", "Val/COVID-19/covid_7.png"),)
    assert report.near == (("Train/COVID-19/covid_2.png", "Test/COVID-19/covid_13.png"),)
    left, right = (duplicates.gradient_hash(x) for x in ((xray(13) * 0.7 + 20).astype(np.uint8), xray(13)))
    assert report.near_bits == (sum((a ^ b).bit_count() for a, b in zip(left, right, strict=True)),)
    assert report.dropped_from_train == ("Train/COVID-19/covid_1.png",)
    assert "Train COVID-19: 2 X-rays, 1,864 published" in report.warnings
    assert "the infection mask of Train/COVID-19/covid_2.png is blank" in report.warnings
    assert "the infection mask of Val/Normal/Normal (11).png is not blank" in report.warnings
    assert "300 pixels of the infection mask of Val/COVID-19/covid_7.png lie outside its lung mask" in report.warnings
    assert len([w for w in report.warnings if "published" not in w]) == 3
    assert "identical images in two splits: 1" in report.table("Infection Segmentation Data")
    assert set(np.unique(Image.open(io.BytesIO(masks["Test/COVID-19/covid_13.png"]["infection"])))) == {0, 1}


def test_up_to_13_bits_are_near():
    """Hashes of 240 bits, of which 0, 13 and 14 are flipped anywhere; splits are compared with each other alone."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2, duplicates.HASH_BITS, np.uint8)
    images = []
    for split, flipped, name in (
        ("Train", 0, "one"),
        ("Train", 5, "same split"),
        ("Val", 0, "equal hash"),
        ("Val", 13, "thirteen"),
        ("Test", 14, "fourteen"),
        ("Test", 13, "same image"),
    ):
        bits = first.copy()
        bits[rng.permutation(duplicates.HASH_BITS)[:flipped]] ^= 1
        digest = "one" if name == "same image" else name
        images.append(duplicates.Looks(f"{split}/COVID-19/{name}.png", split, digest, np.packbits(bits).tobytes()))
    found = duplicates.near_pairs(images, COVID_QU_EX.layout.splits)
    short = {tuple(i.split("/")[-1].removesuffix(".png") for i in pair): bits for pair, bits in found.items()}
    assert {pair: bits for pair, bits in short.items() if pair[0] == "one"} == {
        ("one", "equal hash"): 0,
        ("one", "thirteen"): 13,
    }
    distances = {
        (one.id, two.id): sum((x ^ y).bit_count() for x, y in zip(one.hash, two.hash, strict=True))
        for one, two in itertools.combinations(images, 2)
        if one.split != two.split and one.digest != two.digest
    }
    assert found == {pair: bits for pair, bits in distances.items() if bits <= 13}


def test_fingerprint_tells_names_and_sizes_apart(tmp_path):
    """The same for a zip, a folder and other nesting, and whatever lies beside; not for one byte or one name more."""
    files, image = fake_files(), f"{COVID}/images/covid_1.png"
    longer = files | {image: files[image] + b" "}
    renamed = {name.replace("covid_1.png", "covid_0.png"): data for name, data in files.items()}
    moved = {name.replace("Train/COVID-19/", "Train/Normal/"): data for name, data in files.items()}

    def fingerprint(name, files):
        return Archive(write_zip(tmp_path / f"{name}.zip", files), COVID_QU_EX).fingerprint

    known = fingerprint("a", files)
    assert Archive(write_folder(tmp_path / "folder", files), COVID_QU_EX).fingerprint == known
    assert fingerprint("b", {f"x/{n}": d for n, d in files.items()} | {"about.txt": b"else"}) == known
    assert fingerprint("c", dict(reversed(files.items()))) == known
    others = {fingerprint(*x) for x in (("d", longer), ("e", renamed), ("f", moved))}
    assert len(others - {known}) == 3


def test_pictures_of_what_is_in_two_splits(leaking, tmp_path, capsys, monkeypatch):
    """Both X-rays of each pair, unchanged, identical ones first; gone when an archive without pairs is verified."""
    out = tmp_path / "out"
    assert write_findings(leaking, tmp_path, out) == 0
    assert f"{out / 'duplicates_infection.png'} shows the X-rays" in capsys.readouterr().out
    sheet = np.asarray(Image.open(out / "duplicates_infection.png").convert("L"))
    expected = [xray(7), xray(7), (xray(13) * 0.7 + 20).astype(np.uint8), xray(13)]
    for at, picture in zip((4, 264, 528, 788), expected, strict=True):
        np.testing.assert_array_equal(sheet[4:260, at : at + 256], picture)
    assert (sheet[260:, 4:520] < 128).any(), "no caption"

    monkeypatch.setattr(duplicates, "MOST", 1)
    report, _ = verify.verify(leaking, COVID_QU_EX, "infection")
    with Image.open(io.BytesIO(verify.draw_duplicates(Archive(leaking, COVID_QU_EX), report))) as one:
        assert one.size == (2 * 524, 311)
    assert write_findings(write_zip(tmp_path / "sound.zip", fake_files()), tmp_path, out) == 0
    assert [p.name for p in out.iterdir()] == ["verify.json"]


@pytest.mark.parametrize(
    ("identical", "near", "left"),
    [
        (True, False, ["covid_2", "covid_3"]),
        (True, True, ["covid_3"]),
        (False, True, ["covid_1", "covid_3"]),
        (False, False, ["covid_1", "covid_2", "covid_3"]),
    ],
)
def test_duplicates_are_left_out_of_training_as_the_config_says(
    identical, near, left, leaking_dir, make_config, tmp_path, capsys
):
    config = make_config()
    config.dataset.name, config.dataset.data_dir = "covid_qu_ex", str(leaking_dir)
    config.dataset.drop_leaked, config.dataset.drop_near_duplicates = identical, near
    source, val = load_segmentation_data(config)
    assert sorted(pathlib.PurePosixPath(i).stem for i in source.ids) == left
    assert len(val.ids) == 9
    said = capsys.readouterr().out
    assert (f"{3 - len(left)} training images are identical" in said) == (len(left) < 3)
    assert ("nearly identical to a validation" in said) == near


def test_verify_command_writes_all_of_it(leaking, tmp_path, capsys):
    out = tmp_path / "out"
    assert write_findings(leaking, tmp_path, out) == 0
    (written,) = json.loads((out / "verify.json").read_text())
    assert written["counts"]["Train"] == {"COVID-19": 2, "Non-COVID": 2, "Normal": 2}
    assert written["dropped_from_train"] == ["Train/COVID-19/covid_1.png"]
    assert "errors: none" in capsys.readouterr().out
    broken = write_zip(tmp_path / "broken.zip", fake_files() | {IMAGE: b""})
    assert write_findings(broken, tmp_path, None) == 1
    missing = write_zip(tmp_path / "missing.zip", {name: data for name, data in fake_files().items() if name != IMAGE})
    assert write_findings(missing, tmp_path, out) == 1


# ---- building --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "expected"), [("infection", 2), ("infection_all", 6)])
def test_built_dataset_holds_the_archive(name, expected, tmp_path):
    files = fake_files()
    builder = prepared.open_builder(settings(write_zip(tmp_path / "a.zip", files), tmp_path / "data"), name)
    for split in ("train", "val", "test"):
        examples = list(builder.as_data_source(split))
        assert len(examples) == expected
        for example in examples:
            folder, label, stem = example["id"].decode().split("/")
            assert folder.lower() == split
            assert COVID_QU_EX.classes[example["label"]] == label
            kinds = {"image": "images", "lung_mask": "lung masks", "infection_mask": "infection masks"}
            for feature, kind in kinds.items():
                original = np.asarray(Image.open(io.BytesIO(files[f"{ROOT}/{folder}/{label}/{kind}/{stem}"])))
                stored = example[feature]
                assert stored.shape == (256, 256, 1)
                np.testing.assert_array_equal(stored[..., 0], original if feature == "image" else original // 255)


def test_lung_part(tmp_path):
    files = {n.replace("Infection", "Lung"): d for n, d in fake_files().items() if "infection masks" not in n}
    builder = prepared.open_builder(settings(write_zip(tmp_path / "a.zip", files), tmp_path / "data"), "lung")
    assert set(next(iter(builder.as_data_source("val")))) == {"image", "lung_mask", "label", "id"}
    assert len(builder.as_data_source("train")) == 6


def test_reused_without_the_archive_and_refused_for_another(tmp_path, capsys):
    path = write_zip(tmp_path / "a.zip", fake_files())
    prepared.open_builder(settings(path, tmp_path / "data"), "infection")
    path.unlink()
    capsys.readouterr()
    prepared.open_builder(settings(path, tmp_path / "data"), "infection")
    assert capsys.readouterr().out == ""
    other = write_zip(tmp_path / "b.zip", fake_files(per_class=1))
    with pytest.raises(UserError, match=r"was built from another archive .*a.zip\) than .*b.zip: set config.dataset"):
        prepared.open_builder(settings(other, tmp_path / "data"), "infection")


def test_interrupted_build_leaves_nothing_finished_and_is_done_again(tmp_path):
    """kill -9 while the dataset is being written."""
    path, data = write_zip(tmp_path / "a.zip", fake_files(per_class=60)), tmp_path / "data"
    command = [sys.executable, "launch.py", "--mode=data", "--config.dataset.eval_config=infection"]
    command += [f"--config.dataset.source={path}", f"--config.dataset.data_dir={data}"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    while not list(data.glob("covid_qu_ex/infection/incomplete*")):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not finished(data)
    (left,) = data.glob("covid_qu_ex/infection/incomplete*")
    os.utime(left, (0, 0))
    assert prepare(path, data, eval_config="infection") == 0
    assert [p.name for p in data.glob("covid_qu_ex/infection/*")] == ["1.0.0"]


def prepare(source: pathlib.Path, data_dir: pathlib.Path, **dataset: object) -> int:
    """The status of `--mode=data`."""
    config = default.get_config()
    config.dataset.update({"source": str(source), "data_dir": str(data_dir), **dataset})
    return commands.execute("data", commands.Flags(config))


def test_data_prepares_what_training_and_evaluation_read(tmp_path, capsys):
    path = write_zip(tmp_path / "a.zip", fake_files())
    assert prepare(path, tmp_path / "data") == 0
    assert {folder.parent.name for folder in finished(tmp_path / "data")} == {"infection", "infection_all"}
    assert capsys.readouterr().out.count("Ready: ") == 2


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ({}, "no.zip"),
        ({"train_config": "lungs"}, "config.dataset.train_config='lungs' is not one of"),
        ({"train_config": "lung"}, "has no infection masks"),
    ],
)
def test_data_refuses_mistakes(dataset, words, tmp_path, capsys):
    assert prepare(tmp_path / "no.zip", tmp_path, **dataset) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert words in said


# ---- the real thing --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(real_archive() is None, reason="COVID-QU-Ex is not here: name it with JAXUNET_COVID_QU_EX")
def test_real_archive(tmp_path):
    """Facts about the real images; builds and reads all of them."""
    report, _ = verify.verify(real_archive(), COVID_QU_EX, "infection")
    assert not report.errors
    assert report.counts["Train"] == {"COVID-19": 1864, "Non-COVID": 932, "Normal": 932}
    assert report.counts["Val"] == {"COVID-19": 466, "Non-COVID": 233, "Normal": 233}
    assert not [w for w in report.warnings if "mask" in w]
    train_val = [p for p in report.near if p[0].startswith("Train") and p[1].startswith("Val")]
    assert ("Train/COVID-19/covid_663.png", "Val/COVID-19/covid_2493.png") in train_val
    builder = prepared.open_builder(settings(real_archive(), tmp_path), "infection")
    assert len(builder.as_data_source("train")) == 1864
