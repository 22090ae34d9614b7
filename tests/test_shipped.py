"""The network that comes with jaxunet: small, made by the recipe in configs/unet.py, good on real X-rays."""

import io

import numpy as np
import pytest
from fake_archive import real_archive
from PIL import Image

from configs import unet
from jaxunet import config as config_lib
from jaxunet import letterbox, metrics, predictor, run
from jaxunet.dataset.archive import Archive
from jaxunet.dataset.drawing import draw_chest_xray

FREE = {"dataset.source", "dataset.data_dir", "eval.threshold", "eval.batch_size", "eval.flips"}  # not of the training


def test_it_is_small_and_says_how_it_was_made():
    assert predictor.SHIPPED.stat().st_size < 10 * 2**20
    card = (predictor.SHIPPED.parent / "MODEL_CARD.md").read_text()
    for words in ("Not for clinical use", "Terms of use", "P1", "P3", predictor.SHIPPED.name):
        assert words in card
    recipe, made_with = (config_lib.flatten(c) for c in (unet.get_config(), predictor.load_shipped().config))
    assert {k for k in recipe if recipe[k] != made_with[k]} <= FREE


def test_predict_without_a_run_uses_it(tmp_path, capsys):
    Image.fromarray(draw_chest_xray(0, 0, "test", "COVID-19")[0]).save(tmp_path / "xray.png")
    flags = {"input": str(tmp_path / "xray.png"), "output": str(tmp_path / "out")}
    assert launched("predict", **flags) == 0
    said = capsys.readouterr().out
    assert "the weights that come with jaxunet" in said
    assert "COVID-19 if its probability is above" in said
    assert np.asarray(Image.open(tmp_path / "out/masks/xray_lung.png")).mean() > 10
    assert launched("predict", checkpoint="best", **flags) == 1
    assert "--checkpoint=best is of a run" in capsys.readouterr().err
    assert launched("evaluate") == 1
    assert "name --output" in capsys.readouterr().err
    (tmp_path / "config.json").touch()
    assert launched("evaluate", output=str(tmp_path)) == 1
    assert "holds a run of its own" in capsys.readouterr().err


def launched(mode: str, *, checkpoint: str = "latest", **more: str) -> int:
    return run.run(
        mode,
        config=unet.get_config(),
        overrides={},
        workdir=None,
        split="val",
        checkpoint=checkpoint,
        source=None,
        runs=[],
        topology=[],
        batch_per_chip=0,
        **more,
    )


@pytest.mark.skipif(real_archive() is None, reason="COVID-QU-Ex is not here: name it with JAXUNET_COVID_QU_EX")
def test_it_finds_infection_on_real_xrays():
    """On every eleventh X-ray of Val, 43 with COVID-19 and 42 without."""
    archive, source = Archive(real_archive()), predictor.load_shipped()
    records = [r for r in archive.records("infection") if r.split == "Val"][::11]

    def pixels(entry: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(archive.read(entry))))

    truth = np.stack([[pixels(r.infection), pixels(r.lung)] for r in records]).transpose(0, 2, 3, 1) > 0
    squares, places = zip(*(letterbox.fit(pixels(r.image), source.image_size) for r in records), strict=True)
    logits = source.logits(np.stack(squares))
    masks = np.stack([letterbox.restore(x[..., :2], place) for x, place in zip(logits, places, strict=True)])
    counts = np.asarray(metrics.pixel_counts(masks, truth, source.threshold))
    dice = [metrics.ratios(counts[:, c])["dice"] for c in (0, 1)]
    covid = np.array([r.label == "COVID-19" for r in records])
    assert dice[0][covid].mean() > 0.74
    assert dice[1].mean() > 0.95
    called = 1 / (1 + np.exp(-logits[:, 0, 0, 2])) > source.detection["threshold"]
    assert called[covid].mean() > 0.85
    assert called[~covid].mean() < 0.15
