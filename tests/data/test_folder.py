"""A user's folder: what inspection finds, what is wrong with it, splits, folds, masks, and what is stored."""

import collections
import json
import pathlib
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from jaxunet.core.errors import UserError
from jaxunet.data import draft, findings, folder, folder_spec, prepared, specs, splits, table
from jaxunet.data.dataset_spec import SPLITS
from jaxunet.data.examples import ExampleSource, load_split
from jaxunet.data.folder import FolderDataset
from jaxunet.xrays import letterbox
from jaxunet.xrays.read import read_xray
from tests.support import own_folder
from tests.support.xrays import dicom


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> pathlib.Path:
    return own_folder.write(tmp_path_factory.mktemp("own") / "chests", shrink=4)


@pytest.fixture
def own(drawn, tmp_path) -> pathlib.Path:
    return shutil.copytree(drawn, tmp_path / "chests")


def dataset(path: pathlib.Path, data_dir: pathlib.Path, **changes) -> ConfigDict:
    settings = {"name": "folder", "source": str(path), "data_dir": str(data_dir), "targets": own_folder.TARGETS}
    more = {"train_config": "all", "eval_config": "all", "spec": "", "fold": "", "image_size": 0}
    return ConfigDict(settings | more | changes)


def opened(path: pathlib.Path, **changes) -> FolderDataset:
    return folder.open_folder(dataset(path, path, **changes))


def pixels(path: pathlib.Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def edit(path: pathlib.Path, **changes) -> None:
    spec = path / "dataset.json"
    spec.write_text(json.dumps((json.loads(spec.read_text()) if spec.exists() else draft.draft(path)) | changes))


# ---- inspection ------------------------------------------------------------------------------------------------------


def test_inspection_writes_a_dataset_json_once(own, capsys):
    assert findings.inspect(own, None) == 0
    said = capsys.readouterr().out
    assert "16 X-rays" in said
    assert "96 x 128 to 128 x 96 pixels (height x width), 2 sizes" in said
    assert "faults: none" in said
    (line,) = (line for line in said.splitlines() if line.startswith("pneumothorax") and "%" in line)
    assert line.split()[1:4] == ["16", "8", "8"]  # files, marked, empty
    content = json.loads((own / "dataset.json").read_text())
    assert [t["name"] for t in content["targets"]] == ["device", "pneumothorax", "ribs"]
    assert content["table"] == {"file": "images.csv", "image": "image", "patient": "patient", "class": "class"}
    assert content["columns"] == ["age", "sex", "site"]
    assert (content["classes"], content["size"]) == (["none", "pneumothorax"], 128)
    content["title"] = "mine"
    (own / "dataset.json").write_text(json.dumps(content))
    assert findings.inspect(own, None) == 0
    assert "mine: 16 X-rays" in capsys.readouterr().out
    assert json.loads((own / "dataset.json").read_text()) == content


def test_a_folder_that_cannot_be_written_is_used_all_the_same(own, tmp_path, monkeypatch, capsys):
    def refuse(path, content):
        if path.parent == own:
            raise PermissionError(13, "Permission denied")
        path.write_text(content)

    monkeypatch.setattr(draft, "write_atomically", refuse)
    assert findings.inspect(own, None) == 0
    assert "cannot be written (Permission denied): name another place with --output=" in capsys.readouterr().out
    assert findings.inspect(own, tmp_path / "my.json") == 0
    assert json.loads((tmp_path / "my.json").read_text())["title"] == "chests"
    given = dataset(own, tmp_path, spec=str(tmp_path / "my.json"))
    assert specs.spec_of(given).masks == ("device", "pneumothorax", "ribs")


def test_all_faults_of_a_folder_are_listed_at_once(own, capsys):
    edit(own)
    save, rng = own_folder.save, np.random.default_rng(0)
    (own / "ribs" / "p00_0.png").unlink()
    save(own / "ribs" / "extra.png", np.zeros((8, 8), np.uint8))
    save(own / "device" / "p01_0.png", np.zeros((8, 8), np.uint8))
    save(own / "device" / "p01_1.png", (np.arange(96 * 128) % 37).reshape(96, 128).astype(np.uint8))
    save(own / "ribs" / "p02_0.png", rng.integers(0, 255, (128, 96, 3), np.uint8))
    for path in (own / "pneumothorax").iterdir():
        save(path, np.zeros(pixels(path).shape, np.uint8))
    (own / "images" / "p03_0.png").write_bytes(b"no picture")
    save(own / "images" / "p03_1.jpg", np.zeros((8, 8), np.uint8))
    lines = (own / "images.csv").read_text().splitlines()
    (own / "images.csv").write_text("\n".join([lines[0].replace("patient", "person"), *lines[1:]]))
    assert findings.inspect(own, None) == 1
    said = capsys.readouterr().out
    for words in (
        "p00_0.png in images/ has no mask in ribs/",
        "extra.png in ribs/ has no image of that name in images/",
        "device/p01_0.png has 8 x 8 pixels, but its image has 96 x 128 (height x width)",
        "device/p01_1.png has 37 values from 0 to 36, but a mask has 0 and one other",
        "ribs/p02_0.png is a picture in colour",
        "No image has anything marked as 'pneumothorax'",
        "images/p03_0.png: it is not a PNG, JPEG, TIFF or DICOM file.",
        "p03_1.png in images/ has the name of another file with another ending",
        "images.csv has no column 'patient': there are image, person,",
    ):
        assert words in said
    assert f"faults: {said.split('faults: ')[1].count(chr(10)) - 1}" in said


def test_warnings_of_a_folder(own, capsys):
    for i, name in enumerate(("p00_0.png", "p00_1.png", "p01_0.png")):
        size = pixels(own / "images" / name).shape
        wide = np.random.default_rng(i).integers(0, 2 ** (12 + 4 * (i == 2)), size).astype(np.uint16)
        own_folder.save(own / "images" / name, wide)
    edit(own, splits={"val": ["p02_0.png", "p02_1.png"], "test": ["p03_0.png", "p03_1.png", "gone.png"]})
    shutil.copy(own / "images" / "p02_0.png", own / "images" / "p04_0.png")
    for target in own_folder.TARGETS:
        shutil.copy(own / target / "p02_0.png", own / target / "p04_0.png")
    assert findings.inspect(own, None) == 0
    said = capsys.readouterr().out
    for words in (
        "splits of images that do not exist: gone.png",
        "In two splits, the same picture: p04_0.png and p02_0.png.",
        "(2 PNG, 12 bits used, 1 PNG, 16 bits used)",
        "The split val has no image of the class none",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("encoded", "separator", "name"),
    [("utf-8-sig", ";", "images.csv"), ("utf-16", "\t", "liste.csv"), ("cp1252", ",", "Tabelle 1.csv")],
)
def test_tables_of_any_name_separator_and_encoding(own, encoded, separator, name):
    lines = (own / "images.csv").read_text().replace("site", "Männer").splitlines()
    (own / "images.csv").unlink()
    (own / name).write_bytes("\r\n".join(line.replace(",", separator) for line in lines).encode(encoded))
    edit(own)
    records = opened(own).records()
    assert [r.patient for r in records] == [f"P{i // 2}" for i in range(16)]
    assert records[3].columns == {"age": "35", "sex": "M", "Männer": "a"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,image\na,b\n", "does not begin with a line of column names"),
        ("image,a\nx,y,z\n", "2 columns, but lines with more or fewer cells: 2"),
        ("", "does not begin with a line of column names"),
    ],
)
def test_what_is_no_table(text, words, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        table.read(tmp_path / "t.csv")


def test_all_faults_of_a_dataset_json_are_in_one_sentence():
    targets = [
        {"name": "a/b", "folder": "../x", "colour": [1, 2]},
        {"name": "lung", "folder": "lung", "value": 3},
        {"name": "lung", "label_image": "l", "value": 1, "within": "heart", "missing": "no", "code": ["1"]},
    ]
    text = json.dumps(
        {"size": 100, "targets": targets, "classes": ["x", "x"], "positive": "y", "sice": 1, "splits": {"val": 2}}
        | {"table": {"file": "../secret.csv"}}
    )
    with pytest.raises(UserError) as raised:
        folder_spec.parse(text, "my.json")
    for words in (
        *("my.json: (1)", "sice is unknown", "name is 'a/b'", "folder is '../x'", "colour is [1, 2]"),
        *("'lung' is named 2 times", "label_image and value", "within is 'heart'", "missing is 'no'", "code is ['1']"),
        *("size 100 is not a multiple of 32 from 32 to 1024", "positive class 'y'", "are not all different"),
        *("table.class names no column", "splits.val is 2", "table.file is '../secret.csv'"),
    ):
        assert words in str(raised.value)


# ---- splits ----------------------------------------------------------------------------------------------------------

GROUPS = {f"{p}_{i}": (f"P{p}", "ab"[p % 3 == 0]) for p in range(60) for i in range(1 + p % 3)}


def test_splits_are_by_patient_stratified_and_seeded():
    made = splits.made(GROUPS, {"val": 0.2, "test": 0.1}, 0)
    assert made == splits.made(dict(reversed(GROUPS.items())), {"val": 0.2, "test": 0.1}, 0)
    assert made != splits.made(GROUPS, {"val": 0.2, "test": 0.1}, 1)
    of_patient = {}
    for image, split in made.items():
        of_patient.setdefault(GROUPS[image], set()).add(split)
    assert {len(found) for found in of_patient.values()} == {1}
    counts = collections.Counter((label, split) for (_, label), (split,) in of_patient.items())
    assert [counts["a", split] for split in SPLITS] == [28, 8, 4]
    assert [counts["b", split] for split in SPLITS] == [14, 4, 2]


def test_folds_are_a_partition_by_patient():
    folds = [splits.fold(GROUPS, f"{i}/5", 0) for i in range(5)]
    assert set().union(*folds) == set(GROUPS)
    assert sum(map(len, folds)) == len(GROUPS)
    patients = [{GROUPS[image] for image in found} for found in folds]
    assert sorted(len({p for p, label in found if label == "b"}) for found in patients) == [4] * 5
    assert not any(a & b for i, a in enumerate(patients) for b in patients[:i])
    for wrong in ("5/5", "0", "0/1", "a/b", "-1/3"):
        with pytest.raises(UserError, match="not like '0/5'"):
            splits.parse_fold(wrong)


def test_folds_leave_the_test_images_alone(own):
    edit(own)
    plain = {r.id: r.split for r in opened(own).records()}
    validated = []
    for i in range(3):
        found = {r.id: r.split for r in opened(own, fold=f"{i}/3").records()}
        assert {k for k, v in found.items() if v == "test"} == {k for k, v in plain.items() if v == "test"}
        validated += [k for k, v in found.items() if v == "val"]
    assert sorted(validated) == sorted(k for k, v in plain.items() if v != "test")


def test_given_splits_and_a_patient_in_two_of_them(own):
    head, *rows = (own / "images.csv").read_text().splitlines()
    words = ["Training", "Train", *["train"] * 10, "valid", "VAL", "Test", "testing"]
    given = [f"{row},{word}" for row, word in zip(rows, words, strict=True)]
    (own / "images.csv").write_text("\n".join([f"{head},split", *given]))
    edit(own)
    assert [r.split for r in opened(own).records()] == ["train"] * 12 + ["val"] * 2 + ["test"] * 2
    given[0] = given[0].replace("Training", "test")
    given[1] = given[1].replace("Train", "holdout")
    (own / "images.csv").write_text("\n".join([f"{head},split", *given]))
    with pytest.raises(UserError, match=r"has holdout: use train, val and test\. Patient P0 has images in two splits"):
        opened(own).records()


# ---- masks -----------------------------------------------------------------------------------------------------------


def test_masks_of_every_form(own):
    names = sorted(path.name for path in (own / "ribs").iterdir())
    truth = {name: pixels(own / "ribs" / name) > 0 for name in names}
    shutil.rmtree(own / "pneumothorax")
    (own / "masks").mkdir()
    shutil.move(own / "device", own / "masks" / "device")
    for name, mask in truth.items():
        labels = 3 * mask + 5 * np.roll(mask, 20, 1)
        own_folder.save(own / "labels" / name.replace(".png", "_seg.tif"), np.minimum(labels, 5).astype(np.uint8))
        Image.fromarray(mask.astype(np.uint8) * 255).save(own / "ribs" / name.replace(".png", ".jpg"), quality=60)
        (own / "ribs" / name).unlink()
    content = draft.draft(own)
    assert [(t["name"], t.get("folder"), t.get("label_image"), t.get("value")) for t in content["targets"]] == [
        ("labels_3", None, "labels", 3),
        ("labels_5", None, "labels", 5),
        ("device", "masks/device", None, None),
        ("ribs", "ribs", None, None),
    ]
    assert content["targets"][0]["suffix"] == "_seg"
    content["targets"][3]["above"] = 127
    content["targets"][2]["missing"] = "empty"
    (own / "masks" / "device" / names[0]).unlink()
    found = FolderDataset(own, folder_spec.parse(json.dumps(content), "x"))
    for record in found.records():
        mask = folder.read_mask(found.spec, record, "ribs", truth[record.id].shape)
        assert (mask != truth[record.id]).mean() < 0.01
        label = folder.read_mask(found.spec, record, "labels_3", truth[record.id].shape)
        np.testing.assert_array_equal(label, truth[record.id] & ~np.roll(truth[record.id], 20, 1))
    device = folder.read_mask(found.spec, found.records()[0], "device", (96, 128))
    assert (device.shape, device.any()) == ((96, 128), False)


def test_masks_with_a_palette_or_turned(own):
    """A palette says which colour is meant, in any order; a mask turned by EXIF is shown turned, as its X-ray is."""
    edit(own)
    found = opened(own)
    record = found.records()[0]
    path = own / "device" / record.path.name
    truth = pixels(path) > 0
    for palette in ([255, 255, 255, 0, 0, 0], [0, 0, 0, 128, 0, 0]):  # white before black; as in VOC
        picture = Image.fromarray((truth ^ (palette[0] > 0)).astype(np.uint8), "P")
        picture.putpalette(palette)
        picture.save(path)
        np.testing.assert_array_equal(folder.read_mask(found.spec, record, "device", truth.shape), truth)
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    Image.fromarray(truth[::-1, ::-1].astype(np.uint8) * 255).save(path, exif=exif)
    np.testing.assert_array_equal(folder.read_mask(found.spec, record, "device", truth.shape), truth)


def test_masks_are_scaled_by_area():
    mask = np.zeros((6, 8), bool)
    mask[:3, :4] = True  # of 2 x 2 pixels: whole ones, and in the second row a half
    mask[5, 6] = True  # a quarter
    place = letterbox.fit(np.zeros((6, 8), np.uint8), 4)[1]
    small = letterbox.fit_mask(mask, place, 4)
    assert small.tolist() == [[True, True, False, False], [True, True, False, False], [False] * 4, [False] * 4]
    np.testing.assert_array_equal(
        letterbox.fit_mask(mask[:, :6], letterbox.fit(np.zeros((6, 6), np.uint8), 6)[1], 6), mask[:, :6]
    )


# ---- what is stored --------------------------------------------------------------------------------------------------


def test_what_is_stored_is_what_prediction_sees(own, tmp_path, capsys):
    edit(own, positive="pneumothorax")
    picture = own / "images/p00_0.png"
    picture.with_suffix(".dcm").write_bytes(dicom(pixels(picture).astype(np.uint16), PixelSpacing=[0.4, 0.2]))
    picture.unlink()
    table_of = own / "images.csv"
    table_of.write_text(table_of.read_text().replace("p00_0.png", "p00_0.dcm"))
    settings = dataset(own, tmp_path, image_size=64, fold="1/3")
    builder = prepared.open_builder(settings, "all")
    records = {r.id: r for r in folder.open_folder(settings).records()}
    for split in SPLITS:
        found = load_split(ExampleSource(builder, split, own_folder.TARGETS), threads=1)
        assert sorted(found.ids) == [name for name, r in records.items() if r.split == split]
        assert sorted(found.columns) == ["age", "patient", "sex", "site"]
        for i, name in enumerate(found.ids):
            record = records[name]
            xray = read_xray(record.path)
            square, place = letterbox.fit(xray.pixels, 64, 2.0 if record.path.suffix == ".dcm" else 1.0)
            np.testing.assert_array_equal(found.image[i], square)
            for t, target in enumerate(own_folder.TARGETS):
                mask = letterbox.fit_mask(folder.read_mask(builder.spec, record, target, xray.pixels.shape), place, 64)
                stored = np.unpackbits(found.arrays["mask"][i, ..., t], axis=1).astype(bool)
                np.testing.assert_array_equal(stored, mask)
            assert found.positive[i] == (record.label == "pneumothorax")
            assert found.columns["patient"][i] == record.patient
        part = found.part(np.array([0]))
        assert part.columns["age"].tolist() == [found.columns["age"][0]]
    capsys.readouterr()
    prepared.open_builder(dataset(own, tmp_path, image_size=64, fold="2/3"), "all")
    assert "Building" not in capsys.readouterr().out  # folds share what is stored
    mask = own / "ribs" / "p00_0.png"
    own_folder.save(mask, np.zeros(pixels(mask).shape, np.uint8))
    prepared.open_builder(settings, "all")
    assert "Building" in capsys.readouterr().out  # a changed file is noticed


def test_a_faulty_folder_is_not_built(own, tmp_path, capsys):
    edit(own)
    for name in ("p00_0.png", "p07_1.png"):
        own_folder.save(own / "device" / name, np.zeros((8, 8), np.uint8))
    with pytest.raises(UserError, match="has 2 faults, listed above"):
        prepared.open_builder(dataset(own, tmp_path), "all")
    assert capsys.readouterr().err.count("8 x 8 pixels, but its image has") == 2
    assert not list((tmp_path / "folder").glob("*/1.0.0"))


def test_the_name_of_a_prepared_folder_holds_all_its_files(own, tmp_path):
    edit(own)
    assert opened(own).fingerprint == opened(own).fingerprint
    with pytest.raises(UserError, match="is no folder: give yours with --config.dataset.source=FOLDER"):
        prepared.open_builder(dataset(tmp_path / "gone", tmp_path, spec=(own / "dataset.json").read_text()), "all")
