"""Kinds and bounds of single settings: whatever a command line or a file edited by hand may hold is looked at here."""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.data import specs

_CHOICES = {
    "dataset.name": specs.NAMES,
    "dataset.train_config": specs.SUBSETS,
    "dataset.eval_config": specs.SUBSETS,
    "input.mode": ("auto", "resident", "stream"),
    "model.name": ("unet", "resnet_unet", "separable_unet"),
    "model.depth": (18, 34, 50, 101, 152),
    "model.patch": (1, 2, 4),
    "model.layout": ("auto", "plain", "patches"),
    "model.dtype": ("auto", "float32", "bfloat16"),
    "loss.name": ("bce", "dice", "bce_dice", "focal", "tversky", "cross_entropy"),
    "optimizer.name": ("adam", "adamw", "sgd"),
    "optimizer.schedule": ("constant", "step", "cosine"),
}
_POSITIVE = {
    "dataset.synthetic": ("train", "val", "test"),
    "input": ("resident_limit_gib", "threads", "prefetch_batches"),
    "model": ("input_std",),
    "loss": ("smooth",),
    "optimizer": ("learning_rate", "decay_epochs", "decay_factor"),
    "train": ("batch_size", "accumulate_steps", "eval_every_epochs", "log_every_steps", "checkpoint_every_steps"),
    "eval": ("batch_size", "threshold"),
    "checkpoint": ("keep_latest", "keep_best"),
}
_NOT_NEGATIVE = {
    "": ("seed",),
    "dataset.synthetic": ("seed",),
    "augment": ("rotate_degrees", "scale", "translate_pixels", "gamma", "contrast", "brightness", "noise_std"),
    "model": ("bn_momentum",),
    "loss": ("focal_gamma", "focal_alpha", "tversky_alpha", "tversky_beta"),
    "optimizer": (
        "beta1",
        "beta2",
        "momentum",
        "encoder_rate",
        "warmup_epochs",
        "final_fraction",
        "weight_decay",
        "clip_norm",
    ),
    "train": ("total_epochs", "total_steps", "ema_decay", "steps_per_call", "patience_evals"),
    "eval": ("overlays",),
}
_BELOW_ONE = {
    "augment": ("scale", "contrast"),
    "model": ("bn_momentum",),
    "loss": ("focal_alpha",),
    "optimizer": ("beta1", "beta2", "momentum"),
    "train": ("ema_decay",),
    "eval": ("threshold",),
}
# Above these, memory or time runs out before anything could say so.
_AT_MOST = {
    "seed": 2**32 - 1,  # JAX ignores the bits above
    "dataset.image_size": 4096,
    **dict.fromkeys(("dataset.synthetic.train", "dataset.synthetic.val", "dataset.synthetic.test"), 10**6),
    "dataset.synthetic.seed": 2**63 - 1,
    "input.threads": 1024,
    "input.prefetch_batches": 4096,
    "train.batch_size": 2**16,
    "train.steps_per_call": 10_000,
    "eval.batch_size": 2**16,
}
_LARGEST_WHOLE, _LARGEST = 2**31 - 1, 3e38  # of all others; float32 ends there
_WHOLE = (
    *("seed", "dataset.image_size", "dataset.synthetic.train", "dataset.synthetic.val", "dataset.synthetic.test"),
    *("dataset.synthetic.seed", "input.threads", "input.prefetch_batches", "train.batch_size", "train.total_epochs"),
    *("train.total_steps", "train.accumulate_steps", "train.patience_evals", "train.log_every_steps"),
    *("train.checkpoint_every_steps", "train.steps_per_call", "eval.batch_size", "eval.overlays"),
    *("checkpoint.keep_latest", "checkpoint.keep_best"),
)
_KINDS = {
    "a text": (str, ("dataset.source", "dataset.data_dir", "init.weights", "init.checkpoint")),
    "True or False": (
        bool,
        (
            *("dataset.drop_leaked", "dataset.drop_near_duplicates", "eval.flips", "eval.gate", "eval.report"),
            *("profile", "augment.flip_horizontal", "augment.flip_vertical", "augment.quarter_turns"),
            *("model.bn_sync", "optimizer.nesterov"),
        ),
    ),
    "a tuple": (tuple, ("dataset.targets", "model.channels", "eval.surface_tolerances")),
}


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """{"section.key": value} of every leaf."""
    result = {}
    for key, value in config.items():
        name = prefix + key
        result |= flatten(value, name + ".") if isinstance(value, ConfigDict) else {name: value}
    return result


def check_kinds(config: ConfigDict) -> None:
    """Raises UserError for a key that is missing or a value of the wrong kind, as a file edited by hand may hold."""
    values = flatten(config)
    kinds = {key: (kind, words) for words, (kind, keys) in _KINDS.items() for key in keys}
    numbers = {"model.input_mean", "dataset.image_size", *(key for key, _, _ in _bounds())}
    for key in (*_CHOICES, *kinds, *sorted(numbers)):
        if key not in values:
            raise UserError(f"config.{key} is missing: make the config from configs/default.py, which has every key.")
    for key, (kind, words) in kinds.items():
        if not isinstance(values[key], kind):
            raise UserError(f"config.{key}={values[key]!r} must be {words}.")
    for key in sorted(numbers):
        value, whole = values[key], key in _WHOLE
        most = _AT_MOST.get(key, _LARGEST_WHOLE if whole else _LARGEST)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise UserError(f"config.{key}={value!r} must be a {'whole ' if whole else ''}number.")
        if not abs(value) <= most:  # nor NaN
            raise UserError(f"config.{key}={value!r} must be a finite number, at most {most:,}.")
    tolerances = values["eval.surface_tolerances"]
    if not all(isinstance(t, int | float) and 0 <= t <= _LARGEST for t in tolerances):
        raise UserError(f"config.eval.surface_tolerances={tolerances!r} must be numbers of at least 0.")


def check_values(config: ConfigDict) -> None:
    """Raises UserError for a value that is none of the choices, or out of bounds."""
    values = flatten(config)
    for key, choices in _CHOICES.items():
        if values[key] not in choices:
            raise UserError(f"config.{key}={values[key]!r} is not one of {', '.join(map(repr, choices))}.")
    for key, holds, words in _bounds():
        if not holds(values[key]):
            raise UserError(f"config.{key}={values[key]!r} must be {words}.")
    channels = config.model.channels
    if not 1 <= len(channels) <= 8 or not all(type(c) is int and 1 <= c <= 4096 for c in channels):
        raise UserError(f"config.model.channels={channels!r} must be a tuple of 1 to 8 whole numbers from 1 to 4096.")


def _bounds() -> list[tuple[str, Callable[[Any], bool], str]]:
    """(key, whether a value is allowed, what is)."""
    rules = (
        (_POSITIVE, lambda x: x > 0, "greater than 0"),
        (_NOT_NEGATIVE, lambda x: x >= 0, "at least 0"),
        (_BELOW_ONE, lambda x: x < 1, "less than 1"),
    )
    return [
        (f"{section}.{name}".lstrip("."), holds, words)
        for keys, holds, words in rules
        for section, names in keys.items()
        for name in names
    ]
