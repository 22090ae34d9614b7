"""Train, evaluate, predict, export and load with a folder of one's own, also where the folder is gone."""

import csv
import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

import jaxunet
from configs import folder
from jaxunet import api, commands
from jaxunet.core.errors import UserError
from jaxunet.data.folder import open_folder
from jaxunet.runs import config_file
from jaxunet.training import loop
from tests.support import own_folder
from tests.support.xrays import dicom


def config_of(path: pathlib.Path, data_dir: pathlib.Path, **dataset):
    config = folder.get_config()
    config.dataset.update({"source": str(path), "data_dir": str(data_dir), "image_size": 64} | dataset)
    config.model.channels, config.model.stem = (4, 8), 4
    config.train.total_epochs, config.train.eval_every_epochs = 2, 2.0
    config.optimizer.learning_rate = 1e-2
    config.eval.batch_size = 4
    return config


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> pathlib.Path:
    return own_folder.write(tmp_path_factory.mktemp("own") / "chests", shrink=4)


@pytest.fixture(scope="module")
def folds(own, tmp_path_factory) -> list[pathlib.Path]:
    """Two folds; the folder is renamed away once they are trained."""
    root = tmp_path_factory.mktemp("runs")
    for i in range(2):
        assert loop.train(config_of(own, root / "data", fold=f"{i}/2"), root / f"f{i}")
    return [root / f"f{i}" for i in range(2)]


def test_a_run_knows_its_dataset(own, folds, capsys):
    config = config_file.load(folds[0])
    assert config.dataset.targets == ("device", "pneumothorax", "ribs")
    assert json.loads(config.dataset.spec) == json.loads((own / "dataset.json").read_text())
    assert loop.train(config_of(own, folds[0].parent / "data", fold="0/2"), folds[0])  # there is nothing left to do
    changed = json.loads((own / "dataset.json").read_text()) | {"title": "other"}
    with pytest.raises(UserError, match=r"dataset\.spec \(another text there, another text now\)"):
        loop.train(config_of(own, folds[0].parent / "data", fold="0/2", spec=json.dumps(changed)), folds[0])


def test_scores_of_a_fold_and_of_their_mean(folds, tmp_path, capsys):
    one = api.evaluate(folds[0])
    said = capsys.readouterr().out
    assert "P1: mean over images (n = 6)" in said
    assert "P2: pooled pixels of all images (n = 6)" in said
    assert "P3" not in said
    assert "COVID" not in said
    assert (one["positive_class"], one["P1"] == one["P3"]) == (None, True)
    assert list(one["targets"]) == ["pneumothorax", "ribs"]
    page = (folds[0] / "eval" / "val" / "report.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert (list(data["protocols"]), data["images"]) == (["P1", "P2"], "images")
    both = api.evaluate(folds, split="test", output=tmp_path)
    assert [m["workdir"] for m in both["members"]] == [str(f) for f in folds]
    for split in ("val", "train"):
        with pytest.raises(UserError, match=r"on .* images of another\. Score their mean with --split=test"):
            api.evaluate(folds, split=split, output=tmp_path)
    with pytest.raises(UserError, match="a run is scored on the fold it was trained for"):
        api.evaluate(folds[0], overrides={"dataset.fold": "1/3"})


def test_predictions_and_exports_need_no_folder(own, folds, tmp_path, capsys):
    xrays = tmp_path / "xrays"
    shutil.copytree(own / "images", xrays)
    (xrays / "a.dcm").write_bytes(dicom(np.asarray(Image.open(xrays / "p00_0.png").convert("L"))))
    hidden = own.rename(own.with_name("gone"))
    try:
        flags = commands.Flags(None, workdir=str(folds[0]), input=str(xrays), output=str(tmp_path / "out"))
        assert commands.execute("predict", flags) == 0
        said = capsys.readouterr().out
        assert "COVID" not in said
        assert "answer" not in said
        (row, *_) = csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines())
        assert row["covid19_detected"] == ""
        assert {p.name for p in (tmp_path / "out" / "masks").glob("p00_0_*")} == {
            f"p00_0_{target}.png" for target in own_folder.TARGETS
        }
        file = tmp_path / "own.safetensors"
        flags = commands.Flags(None, workdir=str(folds[0]), output=str(file), format="safetensors")
        assert commands.execute("export", flags) == 0
        assert b"p00_0" not in file.read_bytes()  # names of images can tell patients
        assert "COVID-19 images" not in (tmp_path / "MODEL_CARD.md").read_text()
        net, run = jaxunet.load(file), jaxunet.load(folds[0])
        assert net.targets == run.targets == ("device", "pneumothorax", "ribs")
        assert net.records == run.records
        one, other = (n.predict(xrays / "p01_0.png") for n in (net, run))
        for target in own_folder.TARGETS:
            np.testing.assert_array_equal(one.masks[target], other.masks[target])
        mean = jaxunet.load(folds).predict(xrays / "p01_0.png")
        assert mean.detected is None
        with pytest.raises(UserError, match="is no folder: give yours with"):
            api.evaluate(folds[0])
    finally:
        hidden.rename(own)


def test_a_folder_with_a_positive_class_and_a_finding(own, tmp_path, capsys):
    """The page and the table answer by that class, and P1 is over its images."""
    copied = shutil.copytree(own, tmp_path / "chests")
    spec = json.loads((own / "dataset.json").read_text())
    named = {target["name"]: target for target in spec["targets"]}
    finding = named["pneumothorax"] | {
        "within": "ribs",
        "code": ["36118008", "SCT", "Pneumothorax"],
        "colour": [1, 2, 3],
    }
    spec |= {"targets": [finding, named["ribs"]], "positive": "pneumothorax"}
    (copied / "dataset.json").write_text(json.dumps(spec))
    config = config_of(copied, tmp_path / "data")
    config.input.mode, config.eval.report = "stream", False
    assert loop.train(config, tmp_path / "run")
    found = api.evaluate(tmp_path / "run")
    said = capsys.readouterr().out
    labels = [r.label for r in open_folder(config.dataset).records() if r.split == "val"]
    assert set(labels) == {"none", "pneumothorax"}
    assert f"P1: mean over pneumothorax images (n = {labels.count('pneumothorax')})" in said
    assert "COVID" not in said
    assert found["P3"]["dice"]["n"] == len(labels)
    net = jaxunet.load(tmp_path / "run")
    assert str(net.rule).startswith("pneumothorax if more than ")
    assert net.rule.source == "chosen on val"
    assert net.rule.decides == "ribs"
    target = net.records["pneumothorax"]
    assert (target.colour, target.code, target.within) == ((1, 2, 3), ("36118008", "SCT", "Pneumothorax"), "ribs")
    assert isinstance(net.predict(copied / "images" / "p00_0.png").detected, bool)
