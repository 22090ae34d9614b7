"""Every setting: one row per key, in the order of configs/default.py. That file has the defaults and the comments.

A new setting needs a row here and a line there. `check_kinds` and `check_values` check a config against the rows.
checks.py checks combinations of settings.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.data import specs
from jaxunet.runs.trackers import TRACKERS, names

_WORDS = {bool: "True or False", str: "a text", int: "a whole number", float: "a number", tuple: "a tuple"}
_LARGEST = {int: 2**31 - 1, float: 3e38}  # for rows without `at_most`; float32 ends there


@dataclasses.dataclass(frozen=True)
class Setting:
    """The allowed values of one key of the config.

    Attributes:
      key: "section.name", without `config.`.
      kind: bool, str, int, float (whole numbers are allowed) or tuple; None if `choices` suffices.
      choices: the allowed values, or a function that returns them; None allows any.
      above, at_least, below: bounds of a number.
      at_most: bound of a number. Larger numbers exhaust memory or time before any other check.
      valid, words: a check that no bound can express, and the allowed values in words.
      hint: end of the error message for a number that is too large.
      free: whether it may change when a run resumes, because it does not affect what is learnt.
      since: the value for runs older than the key; None if every config.json has the key.
      kept: False if `since` replaces the value in a saved config, so that only a new request changes it.
      was: the old name of the key, in old runs and command lines.
    """

    key: str
    kind: type | None = None
    choices: tuple[Any, ...] | Callable[[], tuple[Any, ...]] | None = None
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    valid: Callable[[Any], bool] = lambda value: True
    words: str = ""
    hint: str = ""
    free: bool = False
    since: Any = None
    kept: bool = True
    was: str = ""

    def check_kind(self, value: Any) -> None:
        """Raises UserError if `value` has the wrong kind, or is a number that is not finite or too large."""
        if self.kind is None:
            return
        number = self.kind in (int, float)
        kinds: Any = int | float if self.kind is float else self.kind
        if not isinstance(value, kinds) or (number and isinstance(value, bool)):
            raise UserError(f"config.{self.key}={value!r} must be {_WORDS[self.kind]}.")
        if number:
            most = _LARGEST[self.kind] if self.at_most is None else self.at_most
            if not abs(value) <= most:  # true for NaN
                raise UserError(f"config.{self.key}={value!r} must be a finite number, at most {most:,}{self.hint}.")

    def check_value(self, value: Any) -> None:
        """Raises UserError if `value` is not one of the choices, or out of bounds."""
        choices = self.choices() if callable(self.choices) else self.choices
        if choices is not None and value not in choices:
            raise UserError(f"config.{self.key}={value!r} is not one of {', '.join(map(repr, choices))}.")
        for allowed, words in (
            (self.above is None or value > self.above, f"greater than {self.above}"),
            (self.at_least is None or value >= self.at_least, f"at least {self.at_least}"),
            (self.below is None or value < self.below, f"less than {self.below}"),
            (self.valid(value), self.words),
        ):
            if not allowed:
                raise UserError(f"config.{self.key}={value!r} must be {words}.")


# The registries are imported late: they import JAX. launch.py reads RENAMED and must answer `--help` without JAX.


def _networks() -> tuple[str, ...]:
    from jaxunet.models.build import NETWORKS

    return tuple(NETWORKS)


def _losses() -> tuple[str, ...]:
    from jaxunet.scoring.losses import LOSSES

    return tuple(LOSSES)


def _widths(value: tuple[Any, ...]) -> bool:
    return 1 <= len(value) <= 8 and all(type(c) is int and 1 <= c <= 4096 for c in value)


def _tolerances(value: tuple[Any, ...]) -> bool:
    return all(isinstance(t, int | float) and 0 <= t <= _LARGEST[float] for t in value)


# fmt: off
_ROWS = (
    Setting("seed", int, at_least=0, at_most=2**32 - 1),  # JAX ignores the bits above

    Setting("dataset.name", choices=specs.NAMES),
    Setting("dataset.source", str, free=True),
    Setting("dataset.spec", str, since=""),
    Setting("dataset.fold", str, since=""),
    Setting("dataset.data_dir", str, free=True),
    Setting("dataset.train_config", choices=specs.SUBSETS),
    Setting("dataset.eval_config", choices=specs.SUBSETS),
    Setting("dataset.targets", tuple),
    Setting("dataset.image_size", int, at_most=4096),
    Setting("dataset.drop_leaked", bool),
    Setting("dataset.drop_near_duplicates", bool, since=False),
    Setting("dataset.synthetic.train", int, above=0, at_most=10**6),
    Setting("dataset.synthetic.val", int, above=0, at_most=10**6),
    Setting("dataset.synthetic.test", int, above=0, at_most=10**6),
    Setting("dataset.synthetic.seed", int, at_least=0, at_most=2**63 - 1),

    Setting("input.mode", choices=("auto", "resident", "stream"), free=True),
    Setting("input.resident_limit_gib", float, above=0, free=True),
    Setting("input.threads", int, above=0, at_most=1024, free=True),
    Setting("input.prefetch_batches", int, above=0, at_most=4096, free=True),

    Setting("augment.flip_horizontal", bool),
    Setting("augment.flip_vertical", bool),
    Setting("augment.quarter_turns", bool),
    Setting("augment.rotate_degrees", float, at_least=0, at_most=45, hint=": set config.augment.quarter_turns"),
    Setting("augment.scale", float, at_least=0, below=1),
    Setting("augment.translate_pixels", float, at_least=0),
    Setting("augment.gamma", float, at_least=0),
    Setting("augment.contrast", float, at_least=0, below=1),
    Setting("augment.brightness", float, at_least=0),
    Setting("augment.noise_std", float, at_least=0),
    Setting("augment.degrade", float, at_least=0, at_most=1, since=0.0),

    Setting("model.name", choices=_networks),
    Setting("model.channels", tuple, valid=_widths, words="a tuple of 1 to 8 whole numbers from 1 to 4096"),
    Setting("model.stem", choices=(1, 2, 4), was="model.patch"),
    Setting("model.depth", choices=(18, 34, 50, 101, 152)),
    Setting("model.lite", int, choices=(0, 1, 2), since=0),
    Setting("model.answer_inside", str, since=""),
    Setting("model.input_mean", float),
    Setting("model.input_std", float, above=0),
    Setting("model.layout", choices=("auto", "plain", "patches")),
    Setting("model.dtype", choices=("auto", "float32", "bfloat16")),
    Setting("model.bn_momentum", float, at_least=0, below=1),
    Setting("model.bn_sync", bool),

    Setting("init.weights", str),
    Setting("init.run", str, was="init.checkpoint"),
    Setting("init.accept_changes", bool, free=True, since=False),

    Setting("loss.name", choices=_losses),
    Setting("loss.smooth", float, above=0),
    Setting("loss.focal_gamma", float, at_least=0),
    Setting("loss.focal_alpha", float, at_least=0, below=1),
    Setting("loss.tversky_alpha", float, at_least=0),
    Setting("loss.tversky_beta", float, at_least=0),

    Setting("optimizer.name", choices=("adam", "adamw", "sgd")),
    Setting("optimizer.learning_rate", float, above=0),
    Setting("optimizer.schedule", choices=("constant", "step", "cosine")),
    Setting("optimizer.warmup_epochs", float, at_least=0),
    Setting("optimizer.decay_epochs", float, above=0),
    Setting("optimizer.decay_factor", float, above=0),
    Setting("optimizer.final_fraction", float, at_least=0),
    Setting("optimizer.beta1", float, at_least=0, below=1),
    Setting("optimizer.beta2", float, at_least=0, below=1),
    Setting("optimizer.momentum", float, at_least=0, below=1),
    Setting("optimizer.nesterov", bool),
    Setting("optimizer.weight_decay", float, at_least=0),
    Setting("optimizer.encoder_rate", float, at_least=0),
    Setting("optimizer.clip_norm", float, at_least=0),

    Setting("train.batch_size", int, above=0, at_most=2**16),
    Setting("train.total_epochs", int, at_least=0),
    Setting("train.total_steps", int, at_least=0),
    Setting("train.accumulate_steps", int, above=0),
    Setting("train.ema_decay", float, at_least=0, below=1),
    Setting("train.eval_every_epochs", float, above=0),
    Setting("train.patience_evals", int, at_least=0),
    Setting("train.log_every_steps", int, above=0, free=True),
    Setting("train.checkpoint_every_steps", int, above=0),
    Setting("train.steps_per_call", int, at_least=0, at_most=10_000, free=True),

    Setting("eval.batch_size", int, above=0, at_most=2**16, free=True),
    Setting("eval.threshold", float, above=0, below=1),
    Setting("eval.overlays", int, at_least=0, free=True),
    Setting("eval.surface_tolerances", tuple, valid=_tolerances, words="a tuple of numbers of at least 0", free=True,
            since=(2.0, 5.0)),
    Setting("eval.flips", bool, free=True, since=False),
    Setting("eval.gate", bool, free=True, since=False, kept=False),
    Setting("eval.corruptions", bool, free=True, since=False, kept=False),
    Setting("eval.report", bool, free=True, since=True),

    Setting("predict.keep_patient", bool, free=True, since=False, kept=False),
    Setting("predict.report", bool, free=True, since=False, kept=False),

    Setting("profile", bool, free=True),
    Setting("track", str, valid=lambda track: set(names(track)) <= TRACKERS.keys(), free=True, since="",
            words=f"'' or some of {', '.join(TRACKERS)}, with commas between them"),

    Setting("checkpoint.keep_latest", int, above=0, free=True),
    Setting("checkpoint.keep_best", int, above=0, free=True),
)
# fmt: on
SETTINGS = {row.key: row for row in _ROWS}
RENAMED = {row.was: row.key for row in _ROWS if row.was}  # old key -> key


def with_new_names(arguments: list[str]) -> list[str]:
    """Replaces `--config.OLD=value` by `--config.NEW=value` on a command line, for the keys in `RENAMED`."""
    for old, new in RENAMED.items():
        pattern = rf"(--?config\.(?:systems\.\w+\.)?){re.escape(old)}(?=$|=)"
        arguments = [re.sub(rf"^{pattern}", rf"\g<1>{new}", argument) for argument in arguments]
    return arguments


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """{"section.key": value} of every leaf."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        name = prefix + key
        result |= flatten(value, name + ".") if isinstance(value, ConfigDict) else {name: value}
    return result


def check_kinds(config: ConfigDict) -> None:
    """Raises UserError if a key is missing or a value has the wrong kind."""
    values = flatten(config)
    for key, row in SETTINGS.items():
        if key not in values:
            old = f" (its old name is {row.was})" if row.was in values else ""
            raise UserError(
                f"config.{key} is missing{old}: make the config from configs/default.py, which has every key."
            )
    for key, row in SETTINGS.items():
        row.check_kind(values[key])


def check_values(config: ConfigDict) -> None:
    """Raises UserError if a value is not one of the choices, or out of bounds."""
    values = flatten(config)
    for key, row in SETTINGS.items():
        row.check_value(values[key])
