"""TensorBoard, and the trackers of `config.track`: the real ones with their local stores where they are installed."""

import functools
import importlib.util
import io
import json
import pathlib
import struct
from collections.abc import Iterator

import pytest
from ml_collections import ConfigDict
from PIL import Image
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from configs import default
from jaxunet.core.errors import UserError
from jaxunet.devices import processes
from jaxunet.runs import checks, trackers
from jaxunet.runs.metric_log import MetricWriter
from jaxunet.training import loop
from tests.support.runs import assert_same_end

PICTURES = {"overlay/1": Image.new("RGB", (20, 10), (230, 70, 60))}
SETTINGS = {"optimizer.learning_rate": 2e-3, "dataset.targets": "('infection',)", "model.bn_sync": True}


class Recorder:
    """A tracker that keeps what it gets, and fails in the method `fails`."""

    def __init__(self, name, run, settings, *, fails="", got=None):
        self.run, self.fails, self.got = run or f"{name}-1", fails, [] if got is None else got
        self._do("start", self.run, settings)

    def log(self, step, values, pictures):
        self._do("log", step, sorted(values), sorted(pictures))

    def close(self, *, failed):
        self._do("close", failed)

    def _do(self, method, *what):
        self.got.append((method, *what))
        if method == self.fails:
            raise ConnectionError(f"{method}: no route to host\nsecond line")


def config_with(track: str) -> ConfigDict:
    config = default.get_config()
    config.track = track
    return config


def interrupted_and_resumed(workdir: pathlib.Path, track: str) -> None:
    """A run that was stopped after step 8 and its rows, and continued from the checkpoint of step 4."""
    for start, validated, steps in ((0, 0, (2, 4, 6, 8)), (4, 4, (6, 8, 10))):
        at = {"start_step": start, "validated_step": validated, "total_steps": 10}
        with MetricWriter(workdir, config_with(track), **at) as writer:
            for step in steps:
                writer.write(step, {"epoch": step / 4, "train/loss": 1 / step})
                if step % 4 == 0:
                    writer.write(step, {"epoch": step / 4, "val/P1/dice": step / 10}, PICTURES)


def events(workdir: pathlib.Path) -> Iterator[Event]:
    """The events of all files in `tensorboard/`: records of length, checksum, content, checksum."""
    for path in sorted((workdir / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def test_tensorboard_has_pictures_and_settings(finished, finished_config):
    found = [(event.step, value) for event in events(finished) for value in event.summary.value]
    pictures = {step: value.image for step, value in found if value.tag == "overlay/1"}
    assert list(pictures) == [3, 5, 6]  # one, because the config draws one; at each validation
    drawn = Image.open(io.BytesIO(pictures[6].encoded_image_string))
    assert drawn.size == (2 * 256 + 4, 256 + 18)
    assert {value.tag for _, value in found} >= {"train/loss", "val/P1/dice", "images_per_second"}
    plugin = {
        v.tag: HParamsPluginData.FromString(v.metadata.plugin_data.content) for _, v in found if "hparams" in v.tag
    }
    given = plugin["_hparams_/session_start_info"].session_start_info.hparams
    assert given["optimizer.learning_rate"].number_value == finished_config.optimizer.learning_rate
    assert given["dataset.targets"].string_value == "('infection',)"
    (metric,) = plugin["_hparams_/experiment"].experiment.metric_infos
    assert metric.name.tag == "val/P1/dice"


def test_a_tracker_that_fails_is_dropped_and_training_ends_the_same(
    finished, make_config, tmp_path, monkeypatch, capsys
):
    got = {name: [] for name in trackers.TRACKERS}
    for (name, notes), fails in zip(got.items(), ("start", "log", "close"), strict=True):
        monkeypatch.setitem(trackers.TRACKERS, name, functools.partial(Recorder, fails=fails, got=notes))
    monkeypatch.setattr(trackers, "check_installed", lambda track: None)
    config = make_config()
    config.track = ", ".join(got)
    assert loop.train(config, tmp_path)
    assert_same_end(finished, tmp_path)
    assert [[method for method, *_ in notes] for notes in got.values()] == [
        ["start"],
        ["start", "log", "close"],
        ["start"] + ["log"] * 8 + ["close"],
    ]
    assert ("log", 3, ["epoch", "images_per_second", "train/dice", "train/grad_norm"], []) not in got["wandb"]
    said = capsys.readouterr().out.splitlines()
    for name, method in zip(got, ("start", "log", "close"), strict=True):
        assert [line for line in said if line.startswith(f"warning: {name}")] == [
            f"warning: {name} no longer tracks this run, and the training continues "
            f"(ConnectionError: {method}: no route to host second line)"
        ]


def test_a_resumed_run_continues_its_runs_and_sends_no_step_twice(tmp_path, monkeypatch):
    got: list = []
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", functools.partial(Recorder, got=got))
    interrupted_and_resumed(tmp_path / "unet", "mlflow")
    starts = [what for method, *what in got if method == "start"]
    assert [run for run, _ in starts] == ["unet-1", "unet-1"]
    assert SETTINGS.items() <= starts[0][1].items()
    validation = (["val/P1/dice"], ["overlay/1"])  # without the epoch, which the row of training has
    training = (["epoch", "train/loss"], [])
    expected = [(2, *training), (4, *training), (4, *validation), (6, *training), (8, *training), (8, *validation)]
    assert [tuple(what) for method, *what in got if method == "log"] == [*expected, (10, *training)]


def test_only_the_first_process_tracks(tmp_path, monkeypatch):
    got: list = []
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", functools.partial(Recorder, got=got))
    monkeypatch.setattr(processes, "is_first", lambda: False)
    interrupted_and_resumed(tmp_path, "mlflow")
    assert not got
    assert not list(tmp_path.iterdir())


def test_a_tracker_that_is_missing_or_unknown_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"config.track='wandb' needs wandb: pip install 'jaxunet\[wandb\]'"):
        loop.train(config_with("wandb"), tmp_path / "unet")
    assert not (tmp_path / "unet").exists()
    with pytest.raises(UserError, match="track='neptune' must be '' or some of mlflow, trackio, wandb, with commas"):
        checks.check(config_with("neptune"))


@pytest.mark.parametrize("content", ["{", "[]", '{"mlflow": 3}', '{"mlflow": {"run": "r"}}'])
def test_a_damaged_file_of_runs_gets_a_sentence(tmp_path, content):
    (tmp_path / "trackers.json").write_text(content)
    with pytest.raises(UserError, match=r"trackers.json is damaged .* remove it"):
        trackers.Trackers(tmp_path, "mlflow", {}, [{"step": 1}], print)


def test_a_run_that_begins_anew_gets_a_new_run_at_each_tracker(tmp_path, monkeypatch):
    """Also if the folder still has the file of the run before."""
    got: list = []
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", functools.partial(Recorder, got=got))
    (tmp_path / "trackers.json").write_text('{"mlflow": {"run": "old", "training": 500, "validation": 500}}')
    trackers.Trackers(tmp_path, "mlflow,mlflow", {}, [], print).log(100, {"train/loss": 1.0}, {})
    assert [method for method, *_ in got] == ["start", "log"]
    assert got[0][1] != "old"


# ---- the real ones


def need(name: str):
    return pytest.mark.skipif(not importlib.util.find_spec(name), reason=f"needs {name}: pip install 'jaxunet[{name}]'")


@need("mlflow")
@pytest.mark.filterwarnings("ignore")
def test_mlflow(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # pictures go to ./mlruns
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    import mlflow

    interrupted_and_resumed(tmp_path / "unet", "mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("jaxunet").experiment_id])
    assert (run.info.run_name, run.info.status) == ("unet", "FINISHED")
    assert {key: run.data.params[key] for key in SETTINGS} == {key: str(value) for key, value in SETTINGS.items()}
    for key, steps in (("train/loss", [2, 4, 6, 8, 10]), ("epoch", [2, 4, 6, 8, 10]), ("val/P1/dice", [4, 8])):
        assert [metric.step for metric in client.get_metric_history(run.info.run_id, key)] == steps
    pictures = [path.path for path in client.list_artifacts(run.info.run_id, "images") if path.path.endswith(".png")]
    assert len(pictures) == 2
    assert "warning:" not in capsys.readouterr().out


@need("trackio")
@pytest.mark.filterwarnings("ignore")
def test_trackio(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read at the first import
    from trackio.sqlite_storage import SQLiteStorage

    interrupted_and_resumed(tmp_path / "unet", "trackio")
    (run,) = SQLiteStorage.get_runs("jaxunet")
    assert run == json.loads((tmp_path / "unet/trackers.json").read_text())["trackio"]["run"]
    assert SETTINGS.items() <= SQLiteStorage.get_run_config("jaxunet", run).items()
    logs = SQLiteStorage.get_logs("jaxunet", run)
    for key, steps in (("train/loss", [2, 4, 6, 8, 10]), ("val/P1/dice", [4, 8]), ("overlay/1", [4, 8])):
        assert [log["step"] for log in logs if key in log] == steps
    assert len(list((tmp_path / "trackio").rglob("*.png"))) == 2
    assert "warning:" not in capsys.readouterr().out


@need("wandb")
@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    interrupted_and_resumed(tmp_path / "unet", "wandb")
    run = json.loads((tmp_path / "unet/trackers.json").read_text())["wandb"]["run"]
    logged, settings = [], {}
    folders = sorted((tmp_path / "wandb").glob(f"offline-run-*-{run}"))
    for folder in folders:
        for record in wandb_records(folder / f"run-{run}.wandb"):
            settings |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            keys = {(item.nested_key or [item.key])[0] for item in record.history.item}
            logged += [(record.history.step.num, keys)] if keys else []
    assert SETTINGS.items() <= settings.items()
    for key, steps in (("train/loss", [2, 4, 6, 8, 10]), ("val/P1/dice", [4, 8]), ("overlay/1", [4, 8])):
        assert [step for step, keys in logged if key in keys] == steps
    assert len(list((tmp_path / "wandb").rglob("*.png"))) == 2
    assert "warning:" not in capsys.readouterr().out


def wandb_records(path: pathlib.Path) -> Iterator:
    """The records of a .wandb file: a header of 7 bytes, then blocks of 32 KiB with records as in LevelDB's log."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(record)
            record = b""


@need("wandb")
@pytest.mark.filterwarnings("ignore")
def test_wandb_without_an_account_is_a_warning_and_asks_nothing(tmp_path, monkeypatch, capsys):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    import wandb

    wandb.teardown()
    interrupted_and_resumed(tmp_path / "unet", "wandb")
    said = capsys.readouterr().out
    assert said.count("warning: wandb no longer tracks this run") == 2  # at each start
    assert "nobody is logged in: run `wandb login`, or set WANDB_MODE=offline" in said
