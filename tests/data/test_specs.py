"""Specs: the two that there are, and a third one, which takes a row."""

import importlib

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import default
from jaxunet.core.errors import UserError
from jaxunet.data import prepared, specs, verify
from jaxunet.data.examples import ExampleSource, Split, load_split
from jaxunet.data.targets import COVID19, TARGETS, Target
from jaxunet.runs import checks
from jaxunet.scoring import protocols
from tests.support.fake_archive import png, write_zip
from tests.support.wrists import WRISTS


@pytest.mark.parametrize("spec", specs.SPECS.values(), ids=lambda spec: spec.name)
def test_a_spec_does_not_contradict_itself(spec):
    assert spec.positive in spec.classes
    assert hasattr(importlib.import_module(spec.builder), "make_builder")
    assert spec.sizes == (32, 64, 128)
    for subset in spec.subsets.values():
        assert set(subset.classes) <= set(spec.classes)
    if spec.archive:
        assert spec.archive.kinds.keys() == {"image", *spec.masks}
        assert len(spec.archive.splits) == 3
        assert {subset.part for subset in spec.subsets.values()} == spec.archive.parts.keys()
        assert all(s.masks == spec.part_masks(s.part) for s in spec.subsets.values())
        for published in spec.archive.published.values():
            assert {label for _, label in published} == set(spec.classes)


def test_published_training_images_are_those_of_their_classes():
    spec = specs.COVID_QU_EX
    for name in ("infection", "infection_all"):
        subset = spec.subsets[name]
        assert subset.train_images == sum(spec.layout.published[subset.part]["Train", c] for c in subset.classes)


@pytest.mark.parametrize(
    ("name", "train_config", "images"),
    [
        ("covid_qu_ex", "infection", 1864),
        ("covid_qu_ex", "lung", 21715),
        ("synthetic_cxr", "infection", 7),
        ("synthetic_cxr", "infection_all", 14),
    ],
)
def test_number_of_training_images(name, train_config, images):
    synthetic = {"train": 7}
    dataset = ConfigDict({"name": name, "train_config": train_config, "synthetic": synthetic, "image_size": 0})
    assert specs.train_images(dataset) == images
    assert specs.image_size(dataset) == 256
    dataset.image_size = 64
    assert specs.image_size(dataset) == 64


def test_a_subset_that_the_dataset_lacks_is_refused():
    config = default.get_config()
    config.dataset.name, config.dataset.targets, config.dataset.eval_config = "synthetic_cxr", ("lung",), "lung"
    with pytest.raises(UserError, match=r"eval_config='lung' does not exist for synthetic_cxr: use 'infection' or"):
        checks.check(config)


# ---- a third dataset -------------------------------------------------------------------------------------------------


@pytest.fixture
def wrists(tmp_path, monkeypatch) -> ConfigDict:
    """Two X-rays of 64 x 64 per class and split; one whole wrist has a fracture, one X-ray is in two splits."""
    files, seed = {}, 0
    for split in WRISTS.layout.splits:
        for label in WRISTS.classes:
            for i in range(2):
                seed += 1
                small = np.random.default_rng(seed).integers(0, 255, (16, 17), np.uint8)
                image = Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC)
                mask = np.zeros((64, 64), np.uint8)
                mask[8 : 8 + seed, 8:16] = 255 * (label == "broken" or (split, i) == ("testing", 1))
                folder, name = f"data/Hands (left)/{split}/{label}", f"{label}_{i}.png"
                files |= {f"{folder}/x-rays/{name}": png(np.asarray(image)), f"{folder}/fractures/{name}": png(mask)}
    base = "data/Hands (left)"
    twice = f"{base}/training/broken/x-rays/broken_0.png"
    files[f"{base}/testing/broken/x-rays/broken_1.png"] = files[twice]
    monkeypatch.setitem(specs.SPECS, "wrists", WRISTS)
    monkeypatch.setitem(TARGETS, "fracture", Target("fracture", learnt_from=COVID19))
    path = write_zip(tmp_path / "wrists.zip", files)
    return ConfigDict({"name": "wrists", "source": str(path), "data_dir": str(tmp_path / "data"), "image_size": 0})


def test_a_dataset_of_another_archive_is_a_row(wrists, capsys):
    assert verify.write_findings(prepared.archive_of(wrists), None) == 0
    said = capsys.readouterr().out
    assert "Hands (left) in" in said
    assert "the fracture mask of testing/whole/whole_1.png is not blank" in said
    assert "published" not in said
    assert "training/broken/broken_0.png = testing/broken/broken_1.png" in said

    builder = prepared.open_builder(wrists, "all")
    assert prepared.dropped_from_train(builder) == {"training/broken/broken_0.png"}
    assert prepared.open_builder(wrists, "fractures").info.splits["train"].num_examples == 2
    source = ExampleSource(builder, "train", ("fracture",), exclude=prepared.dropped_from_train(builder))
    split = load_split(source, threads=1)
    assert split.image.shape == (3, 64, 64)
    assert {i.split("/")[1] for i, yes in zip(split.ids, split.positive, strict=True) if yes} == {"broken"}
    assert split.positive.sum() == 1
    np.testing.assert_array_equal(split.controls["whole"], ~split.positive)
    assert [split.truth(i).any() for i in range(3)] == split.positive.tolist()
    assert specs.image_size(wrists) == 64


# ---- classes ---------------------------------------------------------------------------------------------------------


def split_of(labels: list[int], positive_class: str | None) -> Split:
    arrays = {"image": np.zeros((len(labels), 8, 8), np.uint8)}
    return Split(arrays, np.array(labels, np.int32), list(map(str, labels)), ("a", "b", "c"), positive_class)


def test_positive_images_and_controls():
    split = split_of([2, 1, 0, 1], "b")
    np.testing.assert_array_equal(split.positive, [False, True, False, True])
    assert {name: chosen.tolist() for name, chosen in split.controls.items()} == {
        "a": [False, False, True, False],
        "c": [True, False, False, False],
    }
    part = split.part(np.array([1, 2]))
    np.testing.assert_array_equal(part.positive, [True, False])
    assert list(part.controls) == ["a"]


def test_without_a_positive_class_p1_is_p3_and_there_are_no_controls():
    split = split_of([2, 1, 0], None)
    assert split.controls == {}
    counts = np.array([[5, 1, 2, 56], [0, 3, 0, 61], [9, 0, 0, 55]])
    summary = protocols.summarize(counts, split.positive)
    assert summary["P1"] == summary["P3"]
    assert summary["P2"] == summary["P2_all"]
    assert summary["P3"]["dice"]["n"] == 3
