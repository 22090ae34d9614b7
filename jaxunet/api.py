"""The Python API: `import jaxunet` gives these functions. docs/python.md has examples.

A mistake in the arguments raises `UserError`. Its message is one sentence that says what to do.
"""

import os
from collections.abc import Sequence
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
    members = load_members(source, checkpoint=checkpoint, overrides=overrides, **settings)
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
    places = [source] if source is None or isinstance(source, str | os.PathLike) else list(source)
    if not places:
        raise UserError("The list of networks is empty: name at least one run or file.")
    return [_load_one(place, str(checkpoint), changes) for place in places]


def train(config: ConfigDict, workdir: Place) -> None:
    """Trains a network or continues the run in `workdir`, like `--mode=train`.

    Args:
      config: all settings, from a config file such as `configs.unet.get_config()`.
      workdir: the run's folder for config, metrics and checkpoints.

    Raises:
      UserError: if a setting, the dataset or the folder cannot be used.
    """
    from jaxunet.training.loop import train as run  # late: prediction needs no optimizer

    run(config, locate(str(workdir)))


def evaluate(
    source: Place | Sequence[Place] | None = None,
    *,
    split: str = "val",
    output: Place | None = None,
    checkpoint: str | int = "latest",
    overrides: dict[str, Any] | None = None,
    **settings: float | bool,
) -> dict[str, Any]:
    """Scores a network on a split of the dataset in its config, like `--mode=evaluate`.

    Args:
      source, checkpoint, overrides, settings: as for `load`. `overrides={"dataset.source": "covidqu.zip"}` sets the
        path of the archive if the network was trained on another machine.
      split: "train", "val" or "test".
      output: folder for `eval/<split>/`. A single run needs none: it has its own folder.

    Returns:
      The content of `metrics.json`.

    Raises:
      UserError: as for `load`; also if the dataset cannot be used, or `output` is missing or is the folder of a run.
    """
    from jaxunet.evaluation.evaluate import evaluate_predictor  # late: it draws figures

    members = load_members(source, checkpoint=checkpoint, overrides=overrides, **settings)
    places = [locate(p.origin) for p in members]
    if output is not None:
        out = locate(str(output))
        if (out / "config.json").exists():
            raise UserError(f"{out} is the folder of a run: choose another output.")
    elif len(members) == 1 and source is not None and places[0].is_dir():
        out = places[0]
    else:
        raise UserError("output is missing: only a single run has its own folder for scores. Name a folder.")
    if len(members) == 1:
        return evaluate_predictor(members[0], out, split=split)
    averaged = [{"workdir": str(w), "checkpoint_step": p.step} for p, w in zip(members, places, strict=True)]
    return evaluate_predictor(loading.ensemble(members, places), out, split=split, members=averaged)


def _load_one(place: Place | None, checkpoint: str, changes: dict[str, Any]) -> Predictor:
    path = None if place is None else locate(str(place))
    if path is None or path.is_file() or path.suffix == ".safetensors":
        if checkpoint != "latest":
            raise UserError(
                f"checkpoint={checkpoint} applies to runs only: leave it out for a file or shipped weights."
            )
        return loading.load_shipped(changes) if path is None else loading.load_safetensors(path, changes)
    config = config_file.load(path)
    config_file.override(config, changes)
    loading.fit_batch_size(config)
    return loading.load(config, path, checkpoint=checkpoint)
