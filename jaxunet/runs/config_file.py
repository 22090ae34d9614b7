"""`config.json` of a run: written beside its results, read back to continue or to evaluate it."""

import json
import pathlib
from typing import Any

from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.runs.settings import check_kinds, flatten

# Keys that may differ between the runs of one workdir: they say where data lies and what is shown, not what is learnt.
_FREE = (
    *("dataset.source", "dataset.data_dir", "input.", "train.log_every_steps", "train.steps_per_call"),
    *("eval.batch_size", "eval.overlays", "eval.report", "eval.surface_tolerances", "eval.flips", "eval.gate"),
    *("checkpoint.", "profile"),
)
# Keys that older runs do not have in their config.json, with what those did.
_ADDED = {
    "dataset.drop_near_duplicates": False,
    "eval.surface_tolerances": (2.0, 5.0),
    "eval.flips": False,
    "eval.gate": True,
    "eval.report": True,
}


def to_json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ConfigDict:
    """Inverse of `to_json`; JSON has no tuples, and no setting is a list. Free keys added since get their default."""

    def tuples(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: tuples(v) for k, v in value.items()}
        return tuple(tuples(v) for v in value) if isinstance(value, list) else value

    settings = tuples(json.loads(text))
    if not isinstance(settings, dict):
        raise ValueError("there are no settings in it")
    for key, value in _ADDED.items():
        section, name = key.split(".")
        if isinstance(settings.get(section), dict):
            settings[section].setdefault(name, value)
    return ConfigDict(settings).lock()


def override(config: ConfigDict, changes: dict[str, Any]) -> None:
    """Sets keys such as "eval.threshold" to other values.

    Raises:
      UserError: if there is no such key, or the value is of another kind.
    """
    for key, value in changes.items():
        try:
            config.update_from_flattened_dict({key: value})
        except KeyError as error:
            raise UserError(f"There is no setting config.{key}: configs/default.py lists all.") from error
        except (TypeError, AttributeError) as error:
            raise UserError(f"config.{key}={value!r} is of another kind than {flatten(config).get(key)!r}.") from error


def load(workdir: pathlib.Path) -> ConfigDict:
    """The config that the run in `workdir` was started with."""
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir} holds no run (there is no config.json in it): give --workdir of a training run.")
    try:
        config = from_json(path.read_text())
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): use another --workdir.") from error
    try:
        check_kinds(config)
    except UserError as error:
        raise UserError(f"{path} is damaged, or of another version: {error}") from error
    return config


def check_same_run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Raises UserError if `workdir` holds a run of another config; what only says where data lies may differ."""
    if not (workdir / "config.json").is_file():
        return
    mine, theirs = flatten(config), flatten(load(workdir))
    different = [
        f"{key} ({theirs.get(key)!r} there, {mine.get(key)!r} now)"
        for key in sorted(mine.keys() | theirs.keys())
        if mine.get(key) != theirs.get(key) and not key.startswith(_FREE)
    ]
    if different:
        raise UserError(
            f"{workdir} holds a run of another config: {', '.join(different)}. Use another --workdir, "
            f"or the same settings to continue that run."
        )
