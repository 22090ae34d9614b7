"""The Python API: `import jaxunet` gives these functions. docs/python.md has examples.

A mistake in the arguments raises `UserError`. Its message is one sentence that says what to do.
"""

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.core.files import locate
from jaxunet.prediction import loading
from jaxunet.prediction.prediction import Prediction
from jaxunet.prediction.predictor import Predictor
from jaxunet.runs import config_file
from jaxunet.xrays.pixels import Xray
from jaxunet.xrays.read import read_xray

__all__ = ["Prediction", "UserError", "Xray", "evaluate", "load", "read_xray", "train"]

Place = str | os.PathLike[str]


def load(
    source: Place | Sequence[Place] | None = None,
    *,
    checkpoint: str | int = "latest",
    overrides: dict[str, Any] | None = None,
    **settings: float | bool,
) -> Predictor:
    """A trained network; `net.predict(xray)` predicts with it.

    Args:
      source: None for the weights that come with jaxunet; the folder of a run, such as "runs/unet"; a file that
        `--mode=export --format=safetensors` wrote; or a list of runs and files, to predict their mean probability.
      checkpoint: for runs: "latest", "best" (by validation) or a step.
      overrides: settings to change, such as {"eval.threshold": 0.4}; configs/default.py lists them.
      settings: settings of `config.eval` to change: threshold=0.4, flips=False, gate=True, batch_size=8.

    Raises:
      UserError: if a network or setting does not exist or cannot be used, or the networks do not fit together.
    """
    return _together(load_members(source, checkpoint=checkpoint, overrides=overrides, **settings))


def _together(members: list[Predictor]) -> Predictor:
    return loading.ensemble(members, [locate(p.origin) for p in members]) if len(members) > 1 else members[0]


def load_members(
    source: Place | Sequence[Place] | None,
    *,
    checkpoint: str | int = "latest",
    overrides: dict[str, Any] | None = None,
    **settings: float | bool,
) -> list[Predictor]:
    """The networks that `load` averages. Arguments as for `load`."""
    changes = {f"eval.{name}": value for name, value in settings.items()} | (overrides or {})
    return [_load_one(place, str(checkpoint), changes) for place in _places(source)]


def train(config: ConfigDict | str, workdir: Place) -> None:
    """Trains a network or continues the run in `workdir`, like `--mode=train`.

    Args:
      config: all settings, from a config file such as `configs.unet.get_config()`; or the name of a shipped config,
        such as "unet".
      workdir: the run's folder for config, metrics and checkpoints.

    Raises:
      UserError: if a setting, the dataset or the folder cannot be used.
    """
    from jaxunet.training.loop import train as run  # late: prediction needs no optimizer

    config = config_file.shipped(config) if isinstance(config, str) else config
    if not isinstance(config, ConfigDict):
        raise UserError(f"config={config!r} is of type {type(config).__name__}: give a ConfigDict or a name.")
    run(config, _locate(workdir, "workdir"))


def evaluate(
    source: Place | Sequence[Place] | None = None,
    *,
    split: str | None = None,
    output: Place | None = None,
    checkpoint: str | int = "latest",
    overrides: dict[str, Any] | None = None,
    **settings: float | bool,
) -> dict[str, Any]:
    """Scores a network on a split of its dataset, or on another dataset, like `--mode=evaluate`.

    Args:
      source, checkpoint, settings: as for `load`.
      split: "train", "val" or "test"; for another dataset also "all". None means "val"; for another dataset "test" if
        its test images are given, else "all".
      output: folder for `eval/<split>/`. A single run needs none: it has its own folder.
      overrides: as for `load`. `{"dataset.source": "covidqu.zip"}` sets the path of the archive if the network was
        trained on another machine. Another `dataset.name`, or a `dataset.source` with another dataset.json, scores the
        network on that dataset, with the targets they share.

    Returns:
      The content of `metrics.json`.

    Raises:
      UserError: as for `load`; also if the dataset cannot be used, or `output` is missing or is the folder of a run.
    """
    from jaxunet.evaluation import elsewhere
    from jaxunet.evaluation.evaluate import evaluate_predictor  # late: it draws figures

    places = _places(source)
    if output is not None:
        out = _locate(output, "output")
        if out.is_file() or (out / "config.json").exists():
            what = "a file" if out.is_file() else "the folder of a run"
            raise UserError(f"{out} is {what}: choose another output.")
    elif len(places) == 1 and places[0] and not _is_file(places[0]):
        out = places[0]
    else:
        raise UserError("output is missing: only a single run has its own folder for scores. Name a folder.")
    changes, other = {f"eval.{name}": value for name, value in settings.items()} | (overrides or {}), None
    if "dataset.fold" in changes:
        raise UserError("config.dataset.fold cannot be changed: a run is scored on the fold it was trained for.")
    if elsewhere.is_named(changes):
        members = load_members(source, checkpoint=checkpoint, overrides=elsewhere.own_changes(changes))
        other = elsewhere.find(_together(members), changes, split)
        if other and any(elsewhere.identity(m) == elsewhere.identity(other.network) for m in members):
            raise UserError("One of the networks was trained on that dataset: score it alone, with --workdir.")
    if other is None:
        members = load_members(source, checkpoint=checkpoint, overrides=changes)
        _check_folds(members, split or "val")
    averaged = [{"workdir": p.origin, "checkpoint_step": p.step} for p in members] if members[1:] else []
    return evaluate_predictor(_together(members), out, split=split or "val", members=averaged, other=other)


def _check_folds(members: Sequence[Predictor], split: str) -> None:
    """Raises UserError if a member was trained on images of `split`: a fold's validation images train other folds."""
    datasets = [p.config.dataset for p in members]
    if split != "test" and len({(d.spec, d.fold) for d in datasets}) > 1:
        raise UserError(
            f"The networks are folds: each was trained on {split} images of another. Score their mean with "
            f"--split=test, or each alone with --split=val."
        )
    if split == "test" and len({d.spec for d in datasets}) > 1:
        raise UserError(
            "The networks have different dataset.json with different test images: train them with the same one."
        )


def _places(source: Any) -> list[pathlib.Path | None]:
    """The paths of networks; None for the one that comes with jaxunet."""
    single = isinstance(source, str | os.PathLike) or not isinstance(source, Iterable)
    places = [None if place is None else _locate(place, "source") for place in ([source] if single else source)]
    if not places:
        raise UserError("The list of networks is empty: name at least one run or file.")
    return places


def _locate(place: Any, name: str) -> pathlib.Path:
    if not isinstance(place, str | os.PathLike):
        raise UserError(f"{name}={place!r} is of type {type(place).__name__}: give a path.")
    return locate(str(place))


def _is_file(path: pathlib.Path) -> bool:
    return path.suffix == ".safetensors" or path.is_file()


def _load_one(path: pathlib.Path | None, checkpoint: str, changes: dict[str, Any]) -> Predictor:
    if path is None or _is_file(path):
        if checkpoint != "latest":
            what = f"checkpoint={checkpoint} applies to runs only"
            raise UserError(f"{what}: leave it out for a file or shipped weights.")
        return loading.load_shipped(changes) if path is None else loading.load_safetensors(path, changes)
    if not path.is_dir():
        raise UserError(f"{path} is neither the folder of a run nor a .safetensors file.")
    config = config_file.load(path)
    config_file.override(config, changes)
    loading.fit_batch_size(config)
    return loading.load(config, path, checkpoint=checkpoint)
