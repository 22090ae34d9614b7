"""The network that comes with jaxunet: its size, its recipe in configs/unet.py, its scores on real X-rays."""

import re
from typing import Any

import numpy as np
from PIL import Image

from configs import unet
from jaxunet import commands
from jaxunet.data.drawing import draw_chest_xray
from jaxunet.models import torch_weights
from jaxunet.prediction import loading
from jaxunet.runs import settings

FREE = {"dataset.source", "dataset.data_dir", "eval.threshold", "eval.batch_size", "eval.flips"}  # not used in training


def test_it_is_small_and_says_how_it_was_made():
    assert loading.SHIPPED.stat().st_size < 10 * 2**20
    card = (loading.SHIPPED.parent / "MODEL_CARD.md").read_text()
    for words in ("Not for clinical use", "Terms of use", "P1", "P3", loading.SHIPPED.name):
        assert words in card
    recipe, made_with = (settings.flatten(c) for c in (unet.get_config(), loading.load_shipped().config))
    assert {k for k in recipe if recipe[k] != made_with[k]} <= FREE


def test_predict_without_a_run_uses_it(tmp_path, capsys):
    Image.fromarray(draw_chest_xray(0, 0, "test", "COVID-19")[0]).save(tmp_path / "xray.png")
    flags = {"input": str(tmp_path / "xray.png"), "output": str(tmp_path / "out")}
    assert launched("predict", **flags) == 0
    said = capsys.readouterr().out
    assert "the weights that come with jaxunet" in said
    assert re.search(r"COVID-19 if its probability is above 0\.\d+ \(.*chosen .*val", said)
    assert "1 X-ray predicted." in said
    assert np.asarray(Image.open(tmp_path / "out/masks/xray_lung.png")).mean() > 10
    assert launched("predict", checkpoint="best", **flags) == 1
    assert "checkpoint=best applies to runs" in capsys.readouterr().err
    assert launched("evaluate") == 1
    assert "name --output" in capsys.readouterr().err
    (tmp_path / "config.json").touch()
    assert launched("evaluate", output=str(tmp_path)) == 1
    assert "is the folder of a run" in capsys.readouterr().err


def test_it_is_scored_and_exported_as_any_file_of_weights(config, tmp_path, capsys):
    overrides = {f"dataset.{key}": config.dataset[key] for key in ("name", "data_dir")}
    overrides |= {f"dataset.synthetic.{key}": config.dataset.synthetic[key] for key in ("train", "val", "test")}
    overrides |= {"eval.flips": False, "eval.report": False}
    again = tmp_path / "again.safetensors"
    assert launched("export", format="safetensors", output=str(again), overrides={"eval.flips": False}) == 0
    shipped, ours = (torch_weights.read_safetensors(path)[0] for path in (loading.SHIPPED, again))
    assert shipped.keys() == ours.keys()
    assert "The model card beside that file says more" in (tmp_path / "MODEL_CARD.md").read_text()
    capsys.readouterr()
    scored = {"output": str(tmp_path), "overrides": overrides}
    assert launched("evaluate", workdir=str(again), **scored) == 0
    assert (tmp_path / "eval/synthetic-chest-x-rays-test/metrics.json").is_file()  # not its own dataset
    assert launched("evaluate", workdir=str(again)) == 1
    assert "output is missing" in capsys.readouterr().err
    assert launched("export", output=str(tmp_path / "a.zip"), workdir=str(tmp_path / "nowhere")) == 1
    assert "nowhere is neither the folder of a run nor a .safetensors file" in capsys.readouterr().err
    assert launched("export", format="torch", output=str(tmp_path / "a")) == 1
    assert "add --config.eval.flips=False" in capsys.readouterr().err


def launched(mode: str, **more: Any) -> int:
    return commands.execute(mode, commands.Flags(unet.get_config(), **more))
