"""A run is kept where it can be read back, and goes on only with what it was trained on."""

import json
import shutil

import numpy as np
import pytest

from jaxunet import api
from jaxunet.core.errors import UserError
from jaxunet.data.examples import ExampleSource, fingerprint, load_split
from jaxunet.data.prepared import open_builder
from jaxunet.runs import checkpoint
from jaxunet.training import loop
from jaxunet.training.state import TrainState

_REFUSED = ["a[1]", "a]b", "a*b", "a?b", "a\\b", "a\udcffb"]


@pytest.mark.parametrize("name", _REFUSED)
def test_path_that_checkpoints_cannot_have_is_refused_before_anything_is_made(name, config, tmp_path):
    with pytest.raises(UserError, match="in its path, where checkpoints cannot be kept"):
        loop.train(config, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [" a b ", "a#b", "a%20b", "aü", "a~b", "a{b}", "a'\"$|:&;", "a\nb"])
def test_every_other_character_works(name, finished, finished_config, tmp_path):
    workdir = tmp_path / name
    shutil.copytree(finished, workdir, ignore=shutil.ignore_patterns("profile", "tensorboard"))
    shutil.rmtree(workdir / "checkpoints")
    with checkpoint.Checkpoints(finished, finished_config.checkpoint) as saved:
        state = saved.restore_weights(6)
    step = TrainState(np.int32(6), state["params"], state["batch_stats"], {}, None, None)
    with checkpoint.Checkpoints(workdir, finished_config.checkpoint) as checkpoints:
        checkpoints.save(step, finished_config, rank_value=None, progress={})  # reads it back
        assert checkpoints._proven


def test_save_that_cannot_be_read_back_ends_the_run(config, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.Checkpoints, "_checked", lambda *_: 1 / 0)
    config.train.checkpoint_every_steps = 2
    with pytest.raises(UserError, match="step 2, just saved in .* cannot be read back .division by zero.*run ends"):
        loop.train(config, tmp_path)


@pytest.fixture
def copy(finished, tmp_path):
    """A finished run, to be changed."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir, ignore=shutil.ignore_patterns("profile", "tensorboard"))
    return workdir


def test_deleted_config_does_not_let_other_settings_in(finished_config, copy):
    (copy / "config.json").unlink()
    config = finished_config.copy_and_resolve_references()
    config.optimizer.learning_rate = 0.5
    with pytest.raises(UserError, match=r"of another config: optimizer.learning_rate \(0.002 there, 0.5 now\)"):
        loop.train(config, copy)
    config.init.accept_changes = True
    assert loop.train(config, copy)


def test_edited_config_is_noticed(finished_config, copy):
    saved = json.loads((copy / "config.json").read_text())
    saved["seed"] = 7
    (copy / "config.json").write_text(json.dumps(saved))
    config = finished_config.copy_and_resolve_references()
    config.seed = 7
    with pytest.raises(UserError, match=r"of another config: seed \(0 there, 7 now\)"):
        loop.train(config, copy)


@pytest.mark.parametrize(("section", "key"), [(None, "seed"), ("dataset", "image_size")])
def test_network_of_an_edited_config_is_not_used(section, key, copy):
    saved = json.loads((copy / "config.json").read_text())
    (saved[section] if section else saved)[key] = 32
    (copy / "config.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match=rf"of another config: (dataset.)?{key} \(0 there, 32 now\)"):
        api.load(copy)
    saved["init"]["accept_changes"] = True
    (copy / "config.json").write_text(json.dumps(saved))
    assert api.load(copy)


def test_other_images_are_refused_by_what_differs(finished_config, copy, monkeypatch):
    config = finished_config.copy_and_resolve_references()
    with monkeypatch.context() as patch:
        read = ExampleSource.__getitem__
        patch.setattr(
            "jaxunet.data.examples.ExampleSource.__getitem__",
            lambda self, i: read(self, i) | {"image": read(self, i)["image"] ^ (i == 3)},
        )
        with pytest.raises(UserError, match="other images: pixels of the training images .*accept_changes=True") as e:
            loop.train(config, copy)
        assert "names" not in str(e.value)
        config.init.accept_changes = True
        assert loop.train(config, copy)


def test_checkpoint_of_an_older_version_without_the_images_goes_on(finished_config, copy):
    for folder in (copy / "checkpoints").iterdir():
        shutil.rmtree(folder / "data")
    assert loop.train(finished_config, copy)


def test_streamed_and_resident_images_have_one_fingerprint(config):

    builder = open_builder(config.dataset, "infection")
    source = ExampleSource(builder, "train", ("infection", "lung"))
    assert fingerprint(source, threads=2) == fingerprint(load_split(source, threads=1), threads=1)


@pytest.mark.parametrize("saving", [True, False])
def test_workdir_that_vanishes_is_one_sentence(config, tmp_path, monkeypatch, saving):
    """Removed between two saves, or while the writer adds to its files."""
    workdir = tmp_path / "run"
    owner, name = (checkpoint.Checkpoints, "save") if saving else (loop.learning_curve, "learning_curve")
    real = getattr(owner, name)

    def vanish(*args, **more):
        if saving:
            real(*args, **more)
        shutil.rmtree(workdir)
        return None if saving else real(*args, **more)

    monkeypatch.setattr(owner, name, vanish)
    with pytest.raises(UserError, match="was removed while training"):
        loop.train(config, workdir)
