"""The real loop on a toy network: resume, both input modes, failures, evaluation."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxunet import checkpoint, dataset, evaluate, tasks, train
from jaxunet import config as config_lib
from jaxunet.errors import UserError
from jaxunet.metric_writer import read_metrics

ROOT = pathlib.Path(__file__).parents[1]


def final_leaves(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Every array of the latest checkpoint by its path, read without knowing the network."""
    directory = (workdir / "checkpoints").absolute()
    with ocp.CheckpointManager(directory) as manager:
        step = manager.latest_step()
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(directory / str(step) / "state")
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same_end(a: pathlib.Path, b: pathlib.Path) -> None:
    """Checkpoints and logged numbers (speed aside) are equal bit for bit."""
    left, right = final_leaves(a), final_leaves(b)
    assert left.keys() == right.keys()
    assert len(left) > 20
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)
    rows = [[{k: v for k, v in r.items() if k != "images_per_second"} for r in read_metrics(w)] for w in (a, b)]
    assert rows[0] == rows[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, request) -> pathlib.Path:
    """A run of six steps without interruption."""
    workdir = tmp_path_factory.mktemp("run")
    train.train(request.getfixturevalue("module_config"), workdir)
    return workdir


@pytest.fixture(scope="module")
def module_config(make_config):
    config = make_config()
    config.profile = True
    return config


def test_workdir_tells_what_ran(finished, module_config):
    assert config_lib.flatten(config_lib.load(finished)) == config_lib.flatten(module_config)
    rows = read_metrics(finished)
    assert [r["step"] for r in rows if "train/loss" in r] == [2, 3, 4, 5, 6]
    assert [r["step"] for r in rows if "val/P1/dice" in r] == [3, 5, 6]
    assert (finished / "learning_curve.png").stat().st_size > 10_000
    assert list((finished / "tensorboard").glob("events*"))
    assert list((finished / "profile").rglob("*.xplane.pb"))
    assert not [p for p in finished.iterdir() if p.name.startswith(".")]


def test_evaluation_reproduces_the_last_validation_exactly(finished, module_config, capsys):
    last = [r for r in read_metrics(finished) if "val/P1/dice" in r][-1]
    result = evaluate.evaluate(config_lib.load(finished), finished, split="val", checkpoint="latest")
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


def test_unknown_checkpoint_lists_the_known(finished):
    with pytest.raises(UserError, match=r"--checkpoint=77 is not in .*: use latest, best or one of \[.*6\]"):
        evaluate.evaluate(config_lib.load(finished), finished, split="val", checkpoint="77")


def test_finished_run_started_again_does_nothing(finished, module_config):
    before = read_metrics(finished)
    train.train(module_config, finished)
    assert read_metrics(finished) == before


def test_streaming_trains_the_same(finished, make_config, tmp_path):
    config = make_config()
    config.input.mode = "stream"
    train.train(config, tmp_path)
    a, b = final_leaves(finished), final_leaves(tmp_path)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_stop_and_resume_ends_where_the_uninterrupted_run_does(finished, module_config, tmp_path, monkeypatch):
    """SIGTERM in step 4, which is neither logged nor validated nor saved otherwise."""
    build, calls = train._build_advance, []

    def interrupting(*args):
        advance, max_steps = build(*args)

        def wrapped(state, n, progress):
            calls.append(n)
            if len(calls) == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return advance(state, n, progress)

        return wrapped, max_steps

    monkeypatch.setattr(train, "_build_advance", interrupting)
    train.train(module_config, tmp_path)
    assert max(r["step"] for r in read_metrics(tmp_path)) == 4
    train.train(module_config, tmp_path)
    assert len(calls) == 6
    assert_same_end(finished, tmp_path)


def test_kill_and_resume_ends_where_the_uninterrupted_run_does(finished, module_config, tmp_path):
    """kill -9 after the first checkpoint, then the same command again."""
    workdir = tmp_path / "run"
    overrides = [
        f"--config.{key}={value}" for key, value in config_lib.flatten(module_config).items() if value is not None
    ]
    command = [sys.executable, "launch.py", f"--workdir={workdir}", *overrides]
    env = os.environ | {"PYTHONWARNINGS": "default"}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 240
    while not (workdir / "checkpoints" / "3").exists():
        assert process.poll() is None or (workdir / "checkpoints" / "6").exists()
        assert time.time() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    train.train(module_config, workdir)
    assert_same_end(finished, workdir)


def test_other_configs_are_refused(finished, make_config):
    config = make_config()
    config.optimizer.learning_rate = 0.5
    with pytest.raises(UserError, match=r"holds a run of another config: optimizer.learning_rate"):
        train.train(config, finished)


def test_non_finite_loss_stops_and_keeps_the_last_checkpoint(make_config, tmp_path):
    config = make_config()
    config.optimizer.learning_rate, config.optimizer.clip_norm, config.optimizer.name = 1e30, 0.0, "sgd"
    config.optimizer.schedule, config.optimizer.warmup_epochs = "step", 0.0
    config.optimizer.decay_epochs, config.optimizer.decay_factor = 0.4, 1e30
    with pytest.raises(UserError, match=r"not finite at step \d \(learning rate .*\): nothing after"):
        train.train(config, tmp_path)
    with checkpoint.Checkpoints(tmp_path, config.checkpoint) as checkpoints:
        assert checkpoints.latest_step() is None


def test_leaked_training_images_are_dropped(make_config, tmp_path, monkeypatch, capsys):
    config = make_config()
    builder = dataset.open_builder(config.dataset, "infection")
    from jaxunet.input_pipeline import ExampleSource

    gone = ExampleSource(builder, "train", ("infection",)).ids[0]
    monkeypatch.setattr(dataset, "dropped_from_train", lambda _: frozenset({gone}))
    source, _ = tasks.load_segmentation_data(config)
    assert len(source) == 9
    assert "1 training images are identical" in capsys.readouterr().out
    config.dataset.drop_leaked = False
    assert len(tasks.load_segmentation_data(config)[0]) == 10


@pytest.mark.parametrize(
    ("step", "period", "expected"),
    [(0, 2, 2), (1, 2, 2), (2, 2, 4), (0, 2.5, 3), (3, 2.5, 5), (5, 2.5, 8), (0, 0.4, 1)],
)
def test_next_multiple(step, period, expected):
    assert train._next_multiple(step, period) == expected


def test_two_devices_are_in_use():
    assert jax.device_count() == 2
