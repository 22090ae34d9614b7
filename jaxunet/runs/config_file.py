"""`config.json` of a run: written beside its results, read to resume or evaluate the run."""

import importlib
import json
import pathlib
from typing import Any

from ml_collections import ConfigDict

import jaxunet
from jaxunet.core.errors import UserError
from jaxunet.runs.settings import RENAMED, SETTINGS, check_kinds, flatten

_LONGEST = 100  # characters of a value in a message
CONFIGS = next(path for folder in jaxunet.__path__ if (path := pathlib.Path(folder) / "configs").is_dir())


def shipped_names() -> list[str]:
    """The names of the config files that come with jaxunet."""
    return sorted(path.stem for path in CONFIGS.glob("*.py"))


def shipped(name: str) -> ConfigDict:
    """A config that comes with jaxunet, by its name, such as "unet"."""
    if name not in shipped_names():
        raise UserError(f"config={name!r} is none of the shipped configs: {', '.join(shipped_names())}.")
    config: ConfigDict = importlib.import_module(f"jaxunet.configs.{name}").get_config()
    return config


def to_json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ConfigDict:
    """Inverse of `to_json`. In older files, renamed keys get their new name and missing keys the `since` of their row.

    Every list becomes a tuple: JSON has no tuples, and no setting is a list.
    """

    def tuples(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: tuples(v) for k, v in value.items()}
        return tuple(tuples(v) for v in value) if isinstance(value, list) else value

    settings = tuples(json.loads(text))
    if not isinstance(settings, dict):
        raise ValueError("there are no settings in it")
    for row in SETTINGS.values():
        if row.since is not None and "." in row.key:
            settings.setdefault(row.key.split(".")[0], {})  # a section that is newer than the file
        section, name = _place(settings, row.key)
        older, old_name = _place(settings, row.was)
        if row.was and old_name in older:
            section.setdefault(name, older.pop(old_name))
        if not row.kept:
            section[name] = row.since
        elif row.since is not None:
            section.setdefault(name, row.since)
    return ConfigDict(settings).lock()


def _place(settings: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The section that holds `key` (a new, empty one if absent), and the name of `key` in it."""
    *sections, name = key.split(".")
    for section in sections:
        found = settings.get(section)
        settings = found if isinstance(found, dict) else {}
    return settings, name


def override(config: ConfigDict, changes: dict[str, Any]) -> None:
    """Overrides settings: `changes` is {"section.key": value}. Raises UserError for unknown keys and values of a wrong
    kind."""
    for name, value in changes.items():
        key = RENAMED.get(name, name)
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
    if (workdir / "config.json").is_file() and not config.init.accept_changes:
        _check_same(config, load(workdir), f"{workdir} holds a run of another config")


def check_origin(
    config: ConfigDict, data: dict[str, Any], saved: tuple[dict[str, Any], dict[str, Any]], workdir: pathlib.Path
) -> None:
    """Raises UserError if the checkpoint that the run in `workdir` continues from was `saved` with another config than
    `config`, or trained on other images than `data`. Older versions saved `{}` for the images."""
    if config.init.accept_changes:
        return
    settings, images = saved
    if settings:
        _check_same(config, from_json(json.dumps(settings)), f"The checkpoints in {workdir} are of another config")
    changed = [
        f"{key} ({images[key]} there, {data[key]} now)" for key in data if images.get(key, data[key]) != data[key]
    ]
    if changed:
        raise UserError(
            f"The checkpoints in {workdir} were trained on other images: {', '.join(changed)}. Use another --workdir, "
            f"or the same images; to go on all the same, set config.init.accept_changes=True."
        )


def _check_same(config: ConfigDict, other: ConfigDict, what: str) -> None:
    mine, theirs = flatten(config), flatten(other)

    def shown(value: Any) -> str:
        return repr(value) if len(repr(value)) <= _LONGEST else "another text"

    different = [
        f"{key} ({shown(theirs.get(key))} there, {shown(mine.get(key))} now)"
        for key in sorted(mine.keys() | theirs.keys())
        if mine.get(key) != theirs.get(key) and not (key in SETTINGS and SETTINGS[key].free)
    ]
    if different:
        raise UserError(
            f"{what}: {', '.join(different)}. Use another --workdir, or the same settings to continue that run."
        )
