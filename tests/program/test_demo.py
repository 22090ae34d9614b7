"""The demo must learn, and its data must show if a network has not. Takes minutes: `python -m pytest -m slow`."""

import dataclasses
import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import demo
from jaxunet.data import examples
from jaxunet.evaluation.evaluate import evaluate
from jaxunet.runs import config_file
from jaxunet.training import loop

pytestmark = pytest.mark.slow


def demo_config(tmp_path_factory: pytest.TempPathFactory) -> ConfigDict:
    config = demo.get_config()
    config.dataset.data_dir = str(tmp_path_factory.getbasetemp() / "demo_data")
    return config


def score(config: ConfigDict, workdir: pathlib.Path) -> float:
    loop.train(config, workdir)
    return evaluate(config_file.load(workdir), workdir, split="test", checkpoint="latest")["P1"]["dice"]["mean"]


def test_demo_learns(tmp_path_factory, tmp_path):
    assert score(demo_config(tmp_path_factory), tmp_path) >= 0.80


def test_untrained_network_fails(tmp_path_factory, tmp_path):
    config = demo_config(tmp_path_factory)
    config.train.total_epochs, config.train.total_steps = 0, 1
    assert score(config, tmp_path) < 0.40


def test_shuffled_masks_fail(tmp_path_factory, tmp_path, monkeypatch):
    """Every image has the mask of another: only the usual place of infection can be learnt."""
    load_split = examples.load_split

    def shuffled(source, *, threads):
        split = load_split(source, threads=threads)
        order = np.random.default_rng(0).permutation(len(split.ids))
        return dataclasses.replace(split, arrays={"image": split.image, "mask": split.arrays["mask"][order]})

    config = demo_config(tmp_path_factory)
    monkeypatch.setattr(loop.input_pipeline, "load_split", shuffled)
    loop.train(config, tmp_path)
    monkeypatch.undo()
    result = evaluate(config_file.load(tmp_path), tmp_path, split="test", checkpoint="latest")
    assert result["P1"]["dice"]["mean"] < 0.55
