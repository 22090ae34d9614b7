"""A network on somebody else's images of many sizes, on changed images, by groups of the table, and over folds."""

import csv
import dataclasses
import json
import pathlib
import types

import numpy as np
import pytest
from PIL import Image

import jaxunet
from jaxunet import commands
from jaxunet.core.errors import UserError
from jaxunet.data import draft
from jaxunet.data.drawing import draw_chest_xray
from jaxunet.data.examples import Split
from jaxunet.data.folder import open_folder
from jaxunet.data.originals import open_originals
from jaxunet.evaluation import corruptions, elsewhere, folds, full_size, subgroups
from jaxunet.runs import config_file
from jaxunet.scoring import protocols
from jaxunet.scoring.detection import PROBABILITY, Rule
from jaxunet.training import loop
from jaxunet.xrays import letterbox
from jaxunet.xrays.pixels import Xray
from tests.support.own_folder import save

SIZES = ((90, 130), (200, 150), (256, 256), (301, 300))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> pathlib.Path:
    """Eight drawn X-rays of four sizes with masks of infection and lung, and a table."""
    folder, rows = tmp_path_factory.mktemp("theirs") / "St. Elsewhere", []
    for i in range(8):
        size, name = SIZES[i % 4], f"{i}.png"
        drawn = draw_chest_xray(7, i, "test", "COVID-19")
        for kind, pixels in zip(("images", "lung", "infection"), drawn, strict=True):
            method = Image.BICUBIC if kind == "images" else Image.NEAREST
            picture = Image.fromarray(pixels if kind == "images" else (pixels > 0).astype(np.uint8) * 255)
            save(folder / kind / name, np.asarray(picture.resize(size[::-1], method)))
        rows.append([name, "FM"[i % 2], 30 + i, f"note {i}"])
    with (folder / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "sex", "age", "remark"], *rows])
    draft.write(folder, None)
    return folder


@pytest.fixture(scope="module")
def scored(finished, theirs):
    """metrics.json and per_image.csv of the run on that folder, and what it printed."""
    flags = commands.Flags(
        config_file.load(finished),
        {"dataset.name": "folder", "dataset.source": str(theirs), "eval.corruptions": True},
        workdir=str(finished),
    )
    assert commands.execute("evaluate", flags) == 0
    out = finished / "eval" / "st-elsewhere-all"
    rows = list(csv.DictReader((out / "per_image.csv").read_text().splitlines()))
    return json.loads((out / "metrics.json").read_text()), rows, (out / "report.html").read_text()


def truth_of(theirs: pathlib.Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(theirs / "infection" / name)) > 0


def test_full_size_scores_are_those_of_predicted_files(scored, finished, theirs):
    result, rows, _ = scored
    network, dice = jaxunet.load(finished), []
    for row in rows:
        truth = truth_of(theirs, row["id"])
        found = network.predict(theirs / "images" / row["id"]).masks["infection"]
        counts = [found & truth, found & ~truth, ~found & truth, ~found & ~truth]
        assert [int(row[f"full_size_{name}"]) for name in ("tp", "fp", "fn", "tn")] == [int(c.sum()) for c in counts]
        dice.append(2 * counts[0].sum() / (found.sum() + truth.sum()))
    assert len(rows) == 8
    block = result["full_size"]
    assert block["P1"]["dice"]["mean"] == pytest.approx(np.mean(dice), abs=1e-12)
    assert (block["smallest_image"], block["largest_image"]) == ("90x130", "301x300")
    assert "no file says the size of its pixels in mm" in block["distances"]


def test_distances_in_mm(finished):
    """By height and width of a pixel, of the files that say them."""
    network, pixels = jaxunet.load(finished), draw_chest_xray(7, 0, "test", "COVID-19")[0]
    truth = np.zeros((256, 256, 2), bool)  # all empty: the distance is the image's diagonal
    xrays = [Xray(pixels), Xray(pixels, spacing_mm=(0.3, 0.4))]
    originals = types.SimpleNamespace(ids=("a", "b"), read=lambda i: (xrays[i], truth))
    columns = full_size.tabulate(network, originals)["infection"]
    np.testing.assert_allclose(columns["hd95_mm"], [np.nan, 0.5 * 256])
    np.testing.assert_allclose(columns["hd95"], np.hypot(256, 256))
    block = full_size.summarize(columns, np.array([True, True]), None)
    assert (block["hd95_mm"]["mean"], block["hd95_mm"]["n"]) == (0.5 * 256, 1)
    assert block["distances"] == "in pixels of each file"


def test_scores_at_the_size_of_the_network(scored, finished, theirs):
    """Images and masks are letterboxed as prediction does."""
    result, rows, _ = scored
    network = jaxunet.load(finished)
    for row in rows:
        xray = jaxunet.read_xray(theirs / "images" / row["id"])
        square, place = letterbox.fit(xray.pixels, 256)
        truth = letterbox.fit_mask(truth_of(theirs, row["id"]), place, 256)
        found = network.outputs(square[None])["masks"][0, ..., 0] > 0
        assert (int(row["tp"]), int(row["fp"])) == ((found & truth).sum(), (found & ~truth).sum())
    assert result["P1"]["dice"]["mean"] == pytest.approx(np.mean([float(row["dice"]) for row in rows]))
    assert result["P1"] == result["P3"]
    assert result["image_size"] == [256, 256]


def test_what_is_scored_is_said(scored):
    result, _, page = scored
    assert (result["dataset_title"], result["trained_on"]) == ("St. Elsewhere", "synthetic chest X-rays")
    assert result["left_out"] == {"of_the_network": [], "of_the_dataset": ["lung"]}
    assert (result["split"], result["positive_class"]) == ("all", None)
    assert "St. Elsewhere" in page


def test_groups_of_the_table(scored):
    result, rows, _ = scored
    groups = result["subgroups"]
    assert groups.keys() == {"sex", "age", "left_out"}  # each remark is another one, as is each age
    assert groups["left_out"].startswith("remark: ")
    assert [(g["group"], g["n"]) for g in groups["age"]] == [
        (f"{30 + 1.75 * i:g} to {31.75 + 1.75 * i:g}", 2) for i in range(4)
    ]
    women = [float(row["dice"]) for row in rows if int(row["id"][0]) % 2 == 0]
    assert [(g["group"], g["n"]) for g in groups["sex"]] == [("F", 4), ("M", 4)]
    assert groups["sex"][0]["dice"]["mean"] == pytest.approx(np.mean(women))


def test_how_columns_make_groups():
    numbers = subgroups.groups(np.array([str(n) for n in range(40, 60)] + ["", "4,5"]))
    assert list(numbers) == ["4.5 to 44", "44 to 49", "49 to 54", "54 to 59", "not stated"]
    assert [int(chosen.sum()) for chosen in numbers.values()] == [5, 5, 5, 6, 1]
    assert list(subgroups.groups(np.array(["10", "9", "10", "", "9"]))) == ["9", "10", "not stated"]
    assert subgroups.groups(np.array(["a"] * 5)) == {}
    assert subgroups.groups(np.array([str(n) for n in range(7)])) == {}  # a quarter would be one image
    assert subgroups.groups(np.array([f"name {i}" for i in range(20)])) == {}
    positive, called = np.array([True, True, False, False]), np.array([True, False, False, True])
    column = {"site": np.array(["a", "b", "a", "b"]), "name": np.array(["x"] * 4)}
    block = subgroups.summarize(column, np.array([0.5, 0.7, 0.0, 1.0]), positive, called)
    means = [{k: v["mean"] for k, v in row.items() if k not in ("group", "n")} for row in block["site"]]
    assert means == [
        {"dice": 0.5, "sensitivity": 1.0, "specificity": 1.0},
        {"dice": 0.7, "sensitivity": 0.0, "specificity": 0.0},
    ]
    assert block["left_out"].startswith("name: ")
    split = Split(
        {},
        np.array([0, 1]),
        ["a", "b"],
        ("x", "y"),
        None,
        {"patient": np.array(["P1", "P1"]), "sex": np.array(["F", "M"])},
    )
    assert list(subgroups.columns_of(split)) == ["class", "sex"]
    assert len(subgroups.groups(np.array([str(1_000_000 + n) for n in range(40)]))) == 4


def test_changed_images(scored):
    result, _, _ = scored
    rows = {row["change"]: row["dice"] for row in result["corruptions"]}
    assert rows.keys() == corruptions.CHANGES.keys()
    assert rows["none"]["n"] == 8
    image, _, mask = draw_chest_xray(7, 3, "test", "COVID-19")
    mask = mask > 0
    for name in corruptions.CHANGES:
        changed, moved = corruptions.corrupt(name, image, mask, seed=(0, 1))
        assert changed.dtype == np.uint8
        assert changed.shape == moved.shape
        assert np.array_equal(changed, image) == (name == "none")
        again, _ = corruptions.corrupt(name, image, mask, seed=(0, 1))
        np.testing.assert_array_equal(changed, again)
        as_image = corruptions.corrupt(name, mask.astype(np.uint8) * 255, mask, seed=(0, 1))[0]
        if "margin" in name or "rotated" in name:  # the mask went where its image went
            inside = as_image[32:-32, 32:-32] if "margin" in name else as_image
            np.testing.assert_array_equal(inside > 0, moved[32:-32, 32:-32] if "margin" in name else moved)
            assert moved.sum() == mask.sum()
        else:
            assert moved is mask
    noisy = [corruptions.corrupt("noise, sigma 13 of 255", image, mask, seed=(0, i))[0] for i in (1, 2)]
    assert not np.array_equal(*noisy)
    assert np.std(noisy[0].astype(float) - noisy[1]) == pytest.approx(13 * np.sqrt(2), rel=0.1)


def test_what_cannot_be_scored_elsewhere(finished, theirs, tmp_path, monkeypatch):
    content = json.loads((theirs / "dataset.json").read_text())
    content["targets"] = [{**content["targets"][1], "name": "pneumonia"}]
    (tmp_path / "other.json").write_text(json.dumps(content))
    changes = {"dataset.name": "folder", "dataset.source": str(theirs), "dataset.spec": str(tmp_path / "other.json")}
    with pytest.raises(UserError, match="masks of pneumonia, the network predicts infection: there is no"):
        jaxunet.evaluate(finished, overrides=changes)
    with pytest.raises(UserError, match="split='all' is not one of train, val, test"):
        jaxunet.evaluate(finished, split="all")


def test_own_dataset_is_not_another_one(finished, theirs, tmp_path):
    network = jaxunet.load(finished)
    assert elsewhere.find(network, {"dataset.name": "synthetic_cxr"}, None) is None
    assert not elsewhere.is_named({"dataset.source": str(tmp_path), "eval.flips": True})
    assert elsewhere.is_named({"dataset.source": str(theirs)})
    assert elsewhere.is_named({"dataset.source": str(tmp_path), "dataset.spec": "my.json"})
    other = elsewhere.find(network, {"dataset.name": "covid_qu_ex"}, None)
    assert (other.split, other.folder) == ("test", "covid-qu-ex-test")


def test_scores_of_two_datasets_of_one_title_stay_apart(finished, theirs, tmp_path):
    first = elsewhere.find(jaxunet.load(finished), {"dataset.source": str(theirs)}, None)
    (tmp_path / "metrics.json").write_text(json.dumps(first.about))
    elsewhere.check_place(tmp_path / "metrics.json", first.about)
    elsewhere.check_place(tmp_path / "none.json", first.about)
    with pytest.raises(UserError, match="scores of another dataset"):
        elsewhere.check_place(tmp_path / "metrics.json", first.about | {"dataset_crc32": "0"})


def test_images_for_testing_alone_are_scored(finished, theirs, tmp_path):
    content = json.loads((theirs / "dataset.json").read_text())
    content["splits"] = {"val": [], "test": [f"{i}.png" for i in range(8)]}
    (tmp_path / "test.json").write_text(json.dumps(content))
    dataset = config_file.load(finished).dataset
    dataset.name, dataset.source, dataset.spec = "folder", str(theirs), str(tmp_path / "test.json")
    with pytest.raises(UserError, match="No image is in the split train"):
        open_folder(dataset).records()
    assert len(open_originals(dataset, "test", ("lung",)).ids) == 8
    with pytest.raises(UserError, match="no images in its split 'val'"):
        open_originals(dataset, "val", ("lung",))


def test_rule_of_another_variable_is_not_used(theirs, tmp_path):
    """The shipped network answers for COVID-19; the folder has no such class, so its probability decides nothing."""
    network = jaxunet.load()
    assert network.rule.decides == PROBABILITY
    other = elsewhere.find(network, {"dataset.name": "folder", "dataset.source": str(theirs)}, None)
    assert other.network.rule == dataclasses.replace(Rule.not_chosen(answers=False), positive=None)
    assert other.network.targets == ("infection", "lung")
    assert other.about["left_out"]["of_the_network"] == ["covid19"]
    content = json.loads((theirs / "dataset.json").read_text())
    content["targets"] = [{"name": "lung", "folder": "lung"}]
    (tmp_path / "lungs.json").write_text(json.dumps(content))
    changes = {"dataset.name": "folder", "dataset.source": str(theirs), "dataset.spec": str(tmp_path / "lungs.json")}
    lungs, images = elsewhere.find(network, changes, None).network, np.zeros((2, 128, 128), np.uint8)
    images[:, 30:90, 20:100] = 150
    found = lungs.outputs(images)
    assert found.keys() == {"masks"}
    np.testing.assert_allclose(found["masks"][..., 0], network.outputs(images)["masks"][..., 1], atol=1e-4)


def test_folds_are_scored_together(make_config, theirs, tmp_path):
    """Each image by the network that was not trained on it; test images by the mean."""
    runs = []
    for i in range(2):
        config = make_config()
        config.dataset.name, config.dataset.source, config.dataset.fold = "folder", str(theirs), f"{i}/2"
        config.dataset.train_config = config.dataset.eval_config = "all"
        config.dataset.image_size = 64
        config.train.total_steps, config.train.batch_size = 1, 2
        loop.train(config, tmp_path / f"fold{i}")
        runs.append((tmp_path / f"fold{i}", config_file.load(tmp_path / f"fold{i}")))
    alone = [folds.score_together([run], split="val", checkpoint="latest") for run in runs]
    both = folds.score_together(runs, split="val", checkpoint="latest")
    assert both.data.ids == sorted(alone[0].data.ids + alone[1].data.ids)
    for part, network in zip(alone, both.folds, strict=True):
        at = np.array([both.data.ids.index(name) for name in part.data.ids])
        np.testing.assert_array_equal(both.counts[at], part.counts)
        np.testing.assert_array_equal(both.data.image[at], part.data.image)
        np.testing.assert_array_equal(both.predict_masks(at), part.predict_masks(np.arange(len(at))))
        assert network.config.dataset.fold == part.predictor.config.dataset.fold
    test = folds.score_together(runs, split="test", checkpoint="latest")
    assert test.data.ids
    assert not set(test.data.ids) & set(both.data.ids)
    with pytest.raises(UserError, match="fold1 share images: name each fold once"):
        folds.score_together(runs, split="train", checkpoint="latest")
    assert protocols.ratios(test.counts[:, 0])["accuracy"].max() <= 1
