"""After any interruption, the same command ends with the result of an uninterrupted run."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from jaxunet.core.errors import UserError
from jaxunet.core.files import exclusive_lock
from jaxunet.devices import replicas
from jaxunet.evaluation import evaluate
from jaxunet.runs import checkpoint, config_file, settings
from jaxunet.runs.metric_log import read_metrics
from jaxunet.training import loop, programs
from jaxunet.training.state import TrainState
from tests.support.runs import assert_same_end

ROOT = pathlib.Path(__file__).parents[2]


def test_streaming_trains_the_same(finished, make_config, tmp_path):
    config = make_config()
    config.input.mode = "stream"
    loop.train(config, tmp_path)
    assert_same_end(finished, tmp_path, rtol=1e-4, atol=1e-5)


def test_run_that_is_stopped_after_every_step_ends_the_same(finished, finished_config, tmp_path, monkeypatch):
    """SIGTERM in every step. If the step is due for validation, the next process validates it first."""
    build, calls = programs.build_advance, []

    def interrupting(*args):
        advance, max_steps = build(*args)

        def wrapped(state, n, progress):
            calls.append(n)
            os.kill(os.getpid(), signal.SIGTERM)
            return advance(state, n, progress)

        return wrapped, max_steps

    monkeypatch.setattr(programs, "build_advance", interrupting)
    complete = [loop.train(finished_config, tmp_path) for _ in range(7)]
    assert complete == [False] * 6 + [True]
    assert len(calls) == 6
    assert_same_end(finished, tmp_path)
    assert not list((tmp_path / "checkpoints").glob("*.replaced"))


def test_kill_and_resume_ends_where_the_uninterrupted_run_does(finished, finished_config, tmp_path):
    """kill -9 after the first checkpoint, then the same command again."""
    workdir = tmp_path / "run"
    overrides = [
        f"--config.{key}={value}" for key, value in settings.flatten(finished_config).items() if value is not None
    ]
    command = [sys.executable, "launch.py", f"--workdir={workdir}", *overrides]
    env = os.environ | {"PYTHONWARNINGS": "default"}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 240
    while not any((workdir / "checkpoints" / step).exists() for step in "3456"):
        assert process.poll() is None
        assert time.time() < deadline
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    loop.train(finished_config, workdir)
    assert_same_end(finished, workdir)


@pytest.mark.parametrize(
    "what", ["bit flipped", "array file cut", "metadata cut", "score cut", "array file gone", "progress cut"]
)
def test_damaged_checkpoint_is_reported_and_the_previous_one_is_used(what, finished, finished_config, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    folder = workdir / "checkpoints" / "6"
    arrays = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    if what == "bit flipped":
        data = bytearray(arrays.read_bytes())
        data[len(data) // 2] ^= 1
        arrays.write_bytes(data)
    elif what == "array file gone":
        arrays.unlink()
    else:
        damaged = {
            "array file": arrays,
            "metadata": folder / "state" / "_METADATA",
            "score": folder / "metrics/metrics",
            "progress": folder / "progress/metadata",
        }
        damaged = damaged[what.removesuffix(" cut")]
        damaged.write_bytes(damaged.read_bytes()[:-5])
    assert loop.train(finished_config, workdir)
    assert_same_end(finished, workdir)
    said = capsys.readouterr().out
    assert "Checkpoint 6 in" in said
    assert f"Going on {'without it' if what == 'score cut' else 'from step 5'}; the damaged one was renamed 6." in said
    assert "continuing at step 5" in said


def test_nothing_but_damaged_checkpoints_is_an_error(finished, finished_config, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    for metadata in (workdir / "checkpoints").glob("*/state/_METADATA"):
        metadata.write_text("{")
    with pytest.raises(UserError, match=r"Checkpoint 6 in .* is damaged.* There is no other to go on from"):
        loop.train(finished_config, workdir)
    with pytest.raises(UserError, match=r"Checkpoint 5 in .* is damaged"):
        evaluate.evaluate(config_file.load(workdir), workdir, split="val", checkpoint="5")
    assert not list((workdir / "checkpoints").glob("*.damaged"))


def test_checkpoint_set_aside_by_a_crash_comes_back(finished, finished_config, tmp_path):
    """The process was killed after it renamed an unvalidated checkpoint, before it saved the validated one."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "checkpoints" / "6").rename(workdir / "checkpoints" / "6.replaced")
    with checkpoint.Checkpoints(workdir, finished_config.checkpoint, clean=True) as checkpoints:
        assert checkpoints.resolve("latest") == 6
    assert not list((workdir / "checkpoints").glob("*.replaced"))


def test_best_is_the_largest_rank_value_and_is_kept(config, tmp_path):
    """Rank values 0.2, 0.9, 0.5; one best and one latest are kept. The first is removed; "best" is the second."""
    config.checkpoint.keep_best = config.checkpoint.keep_latest = 1
    with checkpoint.Checkpoints(tmp_path, config.checkpoint) as checkpoints:
        for step, score in ((1, 0.2), (2, 0.9), (3, 0.5)):
            state = TrainState(jnp.int32(step), {"w": jnp.full(3, step, jnp.float32)}, {}, {}, None, None)
            checkpoints.save(replicas.replicate(state), config, rank_value=score, progress={"validated_step": step})
            checkpoints.wait()
        assert checkpoints.best_step() == 2
    with checkpoint.Checkpoints(tmp_path, config.checkpoint) as checkpoints:
        assert (checkpoints.resolve("best"), checkpoints.resolve("latest")) == (2, 3)
        with pytest.raises(UserError, match=r"--checkpoint=1 is not in .*: use latest, best or one of \[2, 3\]"):
            checkpoints.resolve("1")
        np.testing.assert_array_equal(checkpoints.restore_weights(checkpoints.resolve("best"))["params"]["w"], [2] * 3)
        _, progress = checkpoints.restore_latest(state)
        assert progress == {"validated_step": 3}


def test_two_processes_cannot_train_in_one_folder(finished_config, tmp_path):
    with exclusive_lock(tmp_path), pytest.raises(UserError, match=r"Another process is training in .*: wait for it"):
        loop.train(finished_config, tmp_path)


def test_patience(make_config, tmp_path, capsys):
    """Nothing is learnt, so the first validation stays the best. Training stops after two more and stays stopped."""
    config = make_config()
    config.train.total_steps, config.train.patience_evals = 40, 2
    config.optimizer.learning_rate, config.train.ema_decay, config.model.bn_momentum = 1e-30, 0.0, 0.999999
    assert loop.train(config, tmp_path)
    rows = read_metrics(tmp_path)
    assert [r["step"] for r in rows if "val/P1/dice" in r] == [3, 5, 8]
    assert "Stopped early: the last 2 validations were not better than the best." in capsys.readouterr().out
    assert loop.train(config, tmp_path)
    assert read_metrics(tmp_path) == rows
