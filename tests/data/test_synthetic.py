"""The synthetic X-rays: reproducible, well-formed, hard enough to tell a broken model from a working one."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from jaxunet.data import synthetic
from jaxunet.data.drawing import draw_chest_xray
from jaxunet.data.specs import SYNTHETIC_CXR

COUNTS = {"train": 3, "val": 1, "test": 1, "seed": 5}


@pytest.fixture(scope="module")
def covid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """image uint8, lung and infection bool [40, 256, 256]."""
    image, lung, infection = zip(*(draw_chest_xray(0, i, "val", "COVID-19") for i in range(40)), strict=True)
    return np.stack(image), np.stack(lung) > 0, np.stack(infection) > 0


def made(data_dir: pathlib.Path, counts: dict[str, int], *, controls: bool) -> synthetic.SyntheticCxr:
    return synthetic.SyntheticCxr(**counts, controls=controls, data_dir=str(data_dir))


def mean_dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    both = (prediction & truth).sum((1, 2))
    return float(np.mean(2 * both / (prediction.sum((1, 2)) + truth.sum((1, 2)))))


@pytest.mark.parametrize(
    "other",
    [(4, 7, "train", "COVID-19"), (3, 8, "train", "COVID-19"), (3, 7, "val", "COVID-19"), (3, 7, "train", "Normal")],
)
def test_every_argument_matters(other):
    one, two = draw_chest_xray(3, 7, "train", "COVID-19"), draw_chest_xray(*other)
    assert np.mean(one[1] != two[1]) > 0.01, "two different patients have the same lungs"


def test_drawing_has_not_drifted():
    """If this fails on purpose, raise SyntheticCxr.VERSION with it: prepared folders hold the old pictures."""
    assert str(synthetic.SyntheticCxr.VERSION) == "1.0.0"
    image, lung, infection = draw_chest_xray(0, 0, "train", "COVID-19")
    # Other processors round differently: a few pixels of a border, a fraction of a grey level.
    np.testing.assert_allclose([lung.sum(), infection.sum()], [18636, 5621], atol=8)
    np.testing.assert_allclose(image.mean(), 107.02, atol=0.1)


@pytest.mark.parametrize("label", SYNTHETIC_CXR.classes)
def test_shapes_dtypes_and_values(label):
    for index in range(8):
        image, lung, infection = draw_chest_xray(1, index, "test", label)
        for array in (image, lung, infection):
            assert array.shape == (256, 256)
            assert array.dtype == np.uint8
        assert set(np.unique(lung)) == {0, 1}
        assert set(np.unique(infection)) == ({0, 1} if label == "COVID-19" else {0})
        assert not np.any(infection & ~lung), "infection outside the lung"
        assert image.max() - image.min() > 100, "a flat picture"


def test_infected_share_is_as_in_the_real_data(covid):
    share = covid[2].mean((1, 2))
    assert share.min() > 0
    assert 0.11 < share.mean() < 0.17
    assert np.quantile(share, 0.1) < 0.05
    assert np.quantile(share, 0.9) > 0.22


def test_lower_lungs_are_infected_more(covid):
    _, lung, infection = covid
    per_row = infection.sum((0, 2)) / np.maximum(lung.sum((0, 2)), 1)
    assert per_row[150:190].mean() > 1.3 * per_row[50:90].mean()


def test_infection_is_brighter_than_the_rest_of_the_lung(covid):
    image, lung, infection = covid
    contrast = [i[m].mean() - i[s & ~m].mean() for i, s, m in zip(image, lung, infection, strict=True)]
    assert min(contrast) > 5, "an opacity that cannot be seen cannot be learnt"


def test_trivial_predictions_score_badly(covid):
    image, lung, infection = covid
    levels = range(0, 256, 8)
    assert max(mean_dice(image > level, infection) for level in levels) < 0.45
    assert max(mean_dice(image < level, infection) for level in levels) < 0.45
    assert mean_dice(lung, infection) < 0.6


def test_controls_look_unlike_each_other():
    """Non-COVID lungs hold something that Normal lungs do not."""
    rough = {}
    for label in ("Non-COVID", "Normal"):
        pictures = (draw_chest_xray(0, i, "val", label) for i in range(16))
        rough[label] = np.mean([image[lung > 0].std() / image.std() for image, lung, _ in pictures])
    assert rough["Non-COVID"] > 1.1 * rough["Normal"]


def test_every_number_has_its_own_folder(tmp_path):
    configs = [COUNTS, *(COUNTS | {key: 9} for key in COUNTS)]
    names = {made(tmp_path, numbers, controls=c).builder_config.name for numbers in configs for c in (False, True)}
    assert len(names) == 2 * len(configs)
    assert "infection_train3_val1_test1_seed5" in names
    assert "infection_all_train3_val1_test1_seed5" in names


def test_builder_round_trip(tmp_path: pathlib.Path):
    import tensorflow_datasets as tfds

    found = {}
    for controls in (False, True):
        builder = made(tmp_path, COUNTS, controls=controls)
        builder.download_and_prepare()
        assert builder.info.features["label"].names == ["COVID-19", "Non-COVID", "Normal"]
        for split in ("train", "val", "test"):
            for example in builder.as_data_source(split=split):
                found[controls, example["id"].decode()] = example
    alone = {name for controls, name in found if not controls}
    everything = {name for controls, name in found if controls}
    assert alone == {f"train/COVID-19/covid_{i}" for i in range(3)} | {"val/COVID-19/covid_0", "test/COVID-19/covid_0"}
    others = [*(("train", "Non-COVID", f"non_covid_{i}") for i in range(2)), ("train", "Normal", "normal_0")]
    others += [(split, "Non-COVID", "non_covid_0") for split in ("val", "test")]
    assert everything - alone == set(map("/".join, others))
    for (_, name), example in found.items():
        split, label, file = name.split("/")
        drawn = draw_chest_xray(5, int(file.rsplit("_", 1)[1]), split, label)
        assert SYNTHETIC_CXR.classes[example["label"]] == label
        for key, array in zip(("image", "lung_mask", "infection_mask"), drawn, strict=True):
            np.testing.assert_array_equal(example[key], array[..., None], err_msg=f"{key} of {name}")
    raw = builder.as_data_source(split="val", decoders={"image": tfds.decode.SkipDecoding()})[0]["image"]
    assert Image.open(io.BytesIO(raw)).format == "PNG"
