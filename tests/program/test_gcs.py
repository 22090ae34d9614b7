"""Runs and archives in a bucket, against a small Google Cloud Storage on 127.0.0.1 (fake_bucket.py)."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import signal
import sys
import time
from collections.abc import Iterator

import pytest
from ml_collections import ConfigDict

from jaxunet import commands
from jaxunet.core.errors import UserError
from jaxunet.core.files import locate
from jaxunet.data import prepared
from jaxunet.evaluation import evaluate
from jaxunet.runs.checkpoint import Checkpoints
from jaxunet.runs.metric_log import read_metrics
from jaxunet.training import loop, programs
from tests.support.fake_archive import fake_files, write_zip
from tests.support.fake_bucket import FakeStorage, fake_storage
from tests.support.runs import assert_same_end

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("gcsfs"), reason="needs gcsfs: pip install '.[gcs]'")


@pytest.fixture(scope="module")
def storage() -> Iterator[FakeStorage]:
    """A server with the empty bucket `runs`."""
    with fake_storage("runs") as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", server.url)  # gcsfs and Google's client
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", server.url)
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")  # TensorStore
        patch.setenv("NO_GCE_CHECK", "true")
        yield server


def download(storage: FakeStorage, prefix: str, folder: pathlib.Path) -> pathlib.Path:
    """The objects below `prefix`, as files."""
    for name in storage.names("runs", f"{prefix}/"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(storage.objects["runs", name][0])
    return folder / prefix


@pytest.fixture(scope="module")
def trained(storage: FakeStorage, make_config, tmp_path_factory) -> ConfigDict:
    """Config of the run gs://runs/unet. SIGTERM stopped it at a step that was due for validation; then it continued.

    Checkpoint 3 was saved twice: before and after its validation.
    """
    config, build, steps = make_config(), programs.build_advance, []

    def interrupting(*args):
        advance, max_steps = build(*args)

        def wrapped(state, n, progress):
            steps.append(int(state.step))
            if len(steps) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return advance(state, n, progress)

        return wrapped, max_steps

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "build_advance", interrupting)
        assert not loop.train(config, locate("gs://runs/unet"))
        assert loop.train(config, locate("gs://runs/unet"))
    assert steps == list(range(6))
    return config


def test_run_in_a_bucket_ends_as_one_in_a_folder(trained, storage, finished, tmp_path):
    copy = download(storage, "unet", tmp_path)
    assert_same_end(finished, copy)
    assert read_metrics(locate("gs://runs/unet")) == read_metrics(copy)
    assert (copy / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((copy / "tensorboard").iterdir())) == 2
    assert not [name for name in storage.names("runs", "unet") if ".replaced" in name or "probe" in name]


def test_evaluation_and_comparison_in_a_bucket(trained, storage, finished, finished_config, tmp_path):
    expected = evaluate.evaluate(finished_config, finished, split="val", checkpoint="best")
    flags = commands.Flags(trained, workdir="gs://runs/unet", checkpoint="best")
    assert commands.execute("evaluate", flags) == 0
    copy = download(storage, "unet/eval", tmp_path) / "val"
    assert json.loads((copy / "metrics.json").read_text()) == expected
    assert {p.name for p in (copy / "overlays").iterdir()} == {
        p.name for p in (finished / "eval/val/overlays").iterdir()
    }
    flags = dataclasses.replace(flags, workdir="gs://runs/both", runs=(str(finished), "gs://runs/unet"))
    assert commands.execute("compare", flags) == 0
    names = {"comparison.md", "comparison.csv", "comparison.png", "side_by_side.png", "per_image.csv"}
    assert {p.name for p in download(storage, "both", tmp_path).iterdir()} == names


def test_crash_while_a_checkpoint_is_replaced(trained, storage):
    """At any time of the kill, one of the two folders is complete and is found."""
    folder = "unet/checkpoints/6"
    names = storage.names("runs", f"{folder}/")
    saved = {name: storage.objects["runs", name] for name in names}
    mark = f"{folder}/commit_success.txt"
    assert mark in names

    def latest(kept: list[str], copied: list[str]) -> int:
        for name in names:
            storage.objects.pop(("runs", name), None)
        storage.objects |= {("runs", name): saved[name] for name in kept}
        storage.objects |= {("runs", name.replace("/6/", "/6.replaced/")): saved[name] for name in copied}
        with Checkpoints(locate("gs://runs/unet"), trained.checkpoint, clean=True) as checkpoints:
            step = checkpoints.resolve("latest")
        assert storage.names("runs", folder) == names
        assert {name: storage.objects["runs", name][0] for name in names} == {n: c for n, (c, _) in saved.items()}
        return step

    assert latest(names, names[2:4]) == 6
    assert latest(names, names) == 6
    assert latest([name for name in names if name != mark], names) == 6
    assert latest(names[3:4], names) == 6
    storage.requests.clear()
    assert latest([], names) == 6
    moved = [r for r in storage.requests if "checkpoints%2F6" in r and not r.startswith("GET")]
    copied = [r for r in moved if "/rewriteTo/" in r]
    assert copied == moved[: len(names)]
    assert "commit_success.txt" in copied[-1]
    assert moved[len(names)].startswith("DELETE")
    assert moved[len(names)].endswith("6.replaced%2Fcommit_success.txt")


def test_dataset_from_an_archive_in_a_bucket(storage, tmp_path, capsys):
    storage.objects["runs", "data/covidqu.zip"] = write_zip(tmp_path / "a.zip", fake_files()).read_bytes(), 1
    settings = ConfigDict({"name": "covid_qu_ex", "source": "gs://runs/data/covidqu.zip"})
    settings.data_dir = str(tmp_path / "tfds")
    for built in (True, False):
        builder = prepared.open_builder(settings, "infection")
        assert builder.info.splits["train"].num_examples == 2
        assert ("Fetching gs://runs/data/covidqu.zip" in capsys.readouterr().out) == built
    other = write_zip(tmp_path / "b.zip", fake_files(per_class=3)).read_bytes()
    storage.objects["runs", "data/covidqu.zip"] = other, 2
    with pytest.raises(UserError, match="was built from another archive"):
        prepared.open_builder(settings, "infection")
    for source, words in {"gs://runs/data": "is a folder in a bucket", "gs://runs/no.zip": "does not exist"}.items():
        settings.source, settings.data_dir = source, str(tmp_path / "none")
        with pytest.raises(UserError, match=words):
            prepared.open_builder(settings, "infection")
    settings.data_dir = "gs://runs/tfds"
    with pytest.raises(UserError, match="data_dir=gs://runs/tfds must be a local folder"):
        prepared.open_builder(settings, "infection")


def test_what_cannot_be_used_is_said(storage, config, monkeypatch):
    with pytest.raises(UserError, match="the bucket 'nowhere' does not exist: create it"):
        locate("gs://nowhere/unet")
    with pytest.raises(UserError, match="s3://runs/unet is neither a local path nor gs://"):
        locate("s3://runs/unet")
    config.profile = True
    with pytest.raises(UserError, match="config.profile=True needs a local --workdir"):
        loop.train(config, locate("gs://runs/profiled"))
    config.profile = False
    monkeypatch.setattr(storage, "read_only", True)
    with pytest.raises(UserError, match="--workdir=gs://runs/new cannot be created .*storage.objects.create"):
        loop.train(config, locate("gs://runs/new"))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
    monkeypatch.setenv("CLOUDSDK_CONFIG", "/nowhere")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(UserError, match="There are no credentials for gs://runs/unet: run `gcloud auth"):
        locate("gs://runs/unet")


def test_bucket_lost_while_training(storage, config, finished, monkeypatch, capsys, tmp_path):
    """The bucket is lost in step 4. Checkpoint 3 and its rows are there, and the next process continues."""
    build = programs.build_advance

    def losing(*args):
        advance, max_steps = build(*args)

        def wrapped(state, n, progress):
            if int(state.step) == 3:
                while not storage.names("runs", "lost/checkpoints/3/commit_success.txt"):
                    time.sleep(0.01)
                storage.read_only = True
            return advance(state, n, progress)

        return wrapped, max_steps

    with monkeypatch.context() as patch:
        patch.setattr(programs, "build_advance", losing)
        patch.setattr(storage, "read_only", False)
        assert commands.execute("train", commands.Flags(config, workdir="gs://runs/lost")) == 1
    said = capsys.readouterr().err
    assert "error: A bucket can no longer be used (" in said
    assert "storage.objects.create" in said
    assert "Traceback" not in said
    assert loop.train(config, locate("gs://runs/lost"))
    assert "continuing at step 3" in capsys.readouterr().out
    assert_same_end(finished, download(storage, "lost", tmp_path))


def test_missing_extra_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"gs://runs/unet needs gcsfs: install jaxunet with the extra gcs"):
        locate("gs://runs/unet")
    assert locate("runs/unet") == pathlib.Path("runs/unet")
