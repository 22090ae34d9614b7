"""jaxunet in Python, for notebooks and programs: `import jaxunet` gives these functions. docs/python.md shows them.

A mistake in what is given is raised as `UserError`, with one sentence that says what to do.
"""

import os
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.core.files import locate
from jaxunet.prediction import predictor
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
        `--mode=export --format=safetensors` wrote; or a list of runs and files, whose mean probability is predicted.
      checkpoint: of a run: "latest", "best" (by validation) or a step.
      overrides: settings to change, such as {"eval.threshold": 0.4}; configs/default.py lists them.
      settings: the same for settings of `config.eval`, such as threshold=0.4, flips=False, gate=False, batch_size=8.

    Raises:
      UserError: if a network or a setting does not exist, cannot be used, or networks do not fit together.
    """
    members = load_members(source, checkpoint=checkpoint, overrides=overrides, **settings)
    return predictor.ensemble(members, [locate(p.origin) for p in members]) if len(members) > 1 else members[0]


def load_members(
    source: Place | Sequence[Place] | None,
    *,
    checkpoint: str | int = "latest",
    overrides: dict[str, Any] | None = None,
    **settings: float | bool,
) -> list[Predictor]:
    """The networks that `load` averages, or the one; arguments as for `load`."""
    changes = {f"eval.{name}": value for name, value in settings.items()} | (overrides or {})
    places = [source] if source is None or isinstance(source, str | os.PathLike) else list(source)
    if not places:
        raise UserError("The list of networks is empty: name at least one run or file.")
    return [_load_one(place, str(checkpoint), changes) for place in places]


def train(config: ConfigDict, workdir: Place) -> None:
    """Trains a network, or continues the run in `workdir`, as `--mode=train` does.

    Args:
      config: every setting, as `configs.unet.get_config()` gives them.
      workdir: the folder of the run: config, metrics, checkpoints.

    Raises:
      UserError: if a setting, the dataset or the folder cannot be used.
    """
    from jaxunet.training.loop import train as run  # late: whoever predicts needs no optimizer

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
    """Scores a network on a split of the dataset of its config, as `--mode=evaluate` does.

    Args:
      source, checkpoint, overrides, settings: as for `load`; `overrides={"dataset.source": "covidqu.zip"}` names the
        archive where the network was trained elsewhere.
      split: "train", "val" or "test".
      output: folder for `eval/<split>/`. A single run has its own folder and needs none.

    Returns:
      What `metrics.json` holds.

    Raises:
      UserError: as `load`; or if the dataset cannot be used, or `output` is missing or the folder of a run.
    """
    from jaxunet.evaluation.evaluate import evaluate_predictor  # late: it draws figures

    members = load_members(source, checkpoint=checkpoint, overrides=overrides, **settings)
    places = [locate(p.origin) for p in members]
    if output is not None:
        out = locate(str(output))
        if (out / "config.json").exists():
            raise UserError(f"{out} holds a run of its own: name another output.")
    elif len(members) == 1 and source is not None and places[0].is_dir():
        out = places[0]
    else:
        raise UserError("output is missing: name a folder for the scores of a network that is not a single run.")
    if len(members) == 1:
        return evaluate_predictor(members[0], out, split=split)
    averaged = [{"workdir": str(w), "checkpoint_step": p.step} for p, w in zip(members, places, strict=True)]
    return evaluate_predictor(predictor.ensemble(members, places), out, split=split, members=averaged)


def _load_one(place: Place | None, checkpoint: str, changes: dict[str, Any]) -> Predictor:
    path = None if place is None else locate(str(place))
    if path is None or path.is_file() or path.suffix == ".safetensors":
        if checkpoint != "latest":
            raise UserError(f"checkpoint={checkpoint} is of a run, and this network has one only: leave it out.")
        return predictor.load_shipped(changes) if path is None else predictor.load_safetensors(path, changes)
    config = config_file.load(path)
    config_file.override(config, changes)
    predictor.fit_batch_size(config)
    return predictor.load(config, path, checkpoint=checkpoint)
