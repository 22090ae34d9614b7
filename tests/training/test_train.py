"""The real loop on a toy network: resume, both input modes, failures, evaluation."""

import json
import pathlib

import pytest

from jaxunet.core.errors import UserError
from jaxunet.data import prepared
from jaxunet.evaluation import evaluate
from jaxunet.runs import checkpoint, config_file, settings
from jaxunet.runs.metric_log import read_metrics
from jaxunet.training import loop
from jaxunet.training.task import load_segmentation_data

ROOT = pathlib.Path(__file__).parents[2]


def test_workdir_tells_what_ran(finished, finished_config):
    assert settings.flatten(config_file.load(finished)) == settings.flatten(finished_config)
    rows = read_metrics(finished)
    assert [r["step"] for r in rows if "train/loss" in r] == [2, 3, 4, 5, 6]
    assert [r["step"] for r in rows if "val/P1/dice" in r] == [3, 5, 6]
    assert (finished / "learning_curve.png").stat().st_size > 10_000
    assert list((finished / "tensorboard").glob("events*"))
    assert list((finished / "profile").rglob("*.xplane.pb"))
    assert not [p for p in finished.iterdir() if p.name.startswith(".")]


def test_evaluation_reproduces_the_last_validation_exactly(finished, finished_config, capsys):
    last = [r for r in read_metrics(finished) if "val/P1/dice" in r][-1]
    result = evaluate.evaluate(config_file.load(finished), finished, split="val", checkpoint="latest")
    assert result["checkpoint_step"] == 6
    for protocol, statistic in (("P1", "mean"), ("P2", "value"), ("P2_all", "value"), ("P3", "mean")):
        for name, numbers in result[protocol].items():
            assert numbers[statistic] == last[f"val/{protocol}/{name}"]
    assert json.loads((finished / "eval/val/metrics.json").read_text()) == result
    assert result["P1"]["dice"]["n"] == 3
    assert result["P3"]["dice"]["n"] == 6
    assert "P1: mean over COVID-19 images (n = 3)" in capsys.readouterr().out
    rows = (finished / "eval/val/per_image.csv").read_text().splitlines()
    assert len(rows) == 7
    assert len(list((finished / "eval/val/overlays").glob("*.png"))) == 3


def test_finished_run_started_again_does_nothing(finished, finished_config):
    before = read_metrics(finished)
    loop.train(finished_config, finished)
    assert read_metrics(finished) == before


def test_non_finite_loss_stops_and_keeps_the_last_checkpoint(make_config, tmp_path):
    config = make_config()
    config.optimizer.learning_rate, config.optimizer.clip_norm, config.optimizer.name = 1e30, 0.0, "sgd"
    config.optimizer.schedule, config.optimizer.warmup_epochs = "step", 0.0
    config.optimizer.decay_epochs, config.optimizer.decay_factor = 0.4, 1e30
    with pytest.raises(UserError, match=r"not finite at step \d \(learning rate .*\)\. Nothing was saved after"):
        loop.train(config, tmp_path)
    with checkpoint.Checkpoints(tmp_path, config.checkpoint) as checkpoints:
        assert checkpoints.best_step() is None


def test_leaked_training_images_are_dropped(make_config, tmp_path, monkeypatch, capsys):
    config = make_config()
    builder = prepared.open_builder(config.dataset, "infection")
    from jaxunet.data.examples import ExampleSource

    gone = ExampleSource(builder, "train", ("infection",)).ids[0]
    monkeypatch.setattr(prepared, "dropped_from_train", lambda _: frozenset({gone}))
    source, _ = load_segmentation_data(config)
    assert len(source) == 9
    assert "1 training images are identical" in capsys.readouterr().out
    config.dataset.drop_leaked = False
    assert len(load_segmentation_data(config)[0]) == 10


@pytest.mark.parametrize(
    ("step", "period", "expected"),
    [(0, 2, 2), (1, 2, 2), (2, 2, 4), (0, 2.5, 3), (3, 2.5, 5), (5, 2.5, 8), (0, 0.4, 1)],
)
def test_next_multiple(step, period, expected):
    assert loop._next_multiple(step, period) == expected
