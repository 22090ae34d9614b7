"""Loads a trained network: from a run, from a .safetensors file, from the package; or several as one ensemble."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import flax
import jax
import numpy as np
from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.data.specs import LABELLED_IMAGES, image_size, spec_of
from jaxunet.data.targets import TARGETS, answers_covid19
from jaxunet.devices import replicas
from jaxunet.models import torch_weights
from jaxunet.models.averaging import Ensemble, Flipped, Mean, mean_logits, portable_mean_logits
from jaxunet.models.build import Forward, Network, build_model
from jaxunet.prediction.predictor import Predictor
from jaxunet.runs import checks, config_file
from jaxunet.runs.checkpoint import Checkpoints, DamagedCheckpoint
from jaxunet.runs.config_file import check_origin, from_json, override, to_json
from jaxunet.scoring.detection import Rule, rule_settings

SHIPPED = pathlib.Path(__file__).parents[1] / "weights" / "unet.safetensors"


def load(config: ConfigDict, workdir: pathlib.Path, *, checkpoint: str) -> Predictor:
    """The network of a run, at the checkpoint "latest", "best" or a step.

    `config`: the run's config, from `config_file.load`; settings such as the threshold may be changed.
    Raises UserError if the checkpoint does not exist or is damaged, the run learnt classes instead of masks, or its
    `config.json` was edited.
    """
    checks.check(config, training=False)
    if config.dataset.name == LABELLED_IMAGES:
        raise UserError(f"{workdir} learnt classes, not masks: metrics.jsonl has its validation accuracy.")
    size = image_size(config.dataset)
    model = build_model(config.model, config.dataset.targets, axis_name=None)
    with Checkpoints(workdir, config.checkpoint) as checkpoints:
        step, best = checkpoints.resolve(checkpoint), checkpoints.best_step()
        try:
            check_origin(config_file.load(workdir), {}, checkpoints.origin(step), workdir)
            variables = checkpoints.restore_weights(step)
            _check_tensors(variables, model, size, source=f"Checkpoint {step} in {workdir}")
        except DamagedCheckpoint as error:
            raise UserError(f"{error} Choose another with --checkpoint, or continue the training.") from error
    rule = _rule_of_val(config, workdir, step)
    return Predictor(config, step, best, _forward(model, config), replicas.replicate(variables), str(workdir), rule)


def _rule_of_val(config: ConfigDict, workdir: pathlib.Path, step: int) -> Rule:
    """The rule that `--mode=evaluate --split=val` chose for this checkpoint and these settings, else the default."""
    answers = answers_covid19(config.dataset.targets)
    metrics, settings = workdir / "eval" / "val" / "metrics.json", rule_settings(config, step=step)
    spec = spec_of(config.dataset)
    rule = Rule.of_val(metrics, settings, answers=answers, source="chosen on val", masks=spec.targets)
    return dataclasses.replace(rule or Rule.not_chosen(answers=answers), positive=spec.positive)


def _forward(model: Network, config: ConfigDict) -> Forward:
    return Flipped(model) if config.eval.flips else model


def _rule_settings(config: ConfigDict) -> dict[str, Any]:
    """The settings that a rule in the metadata of a file is valid for. It can be used on any dataset."""
    settings = rule_settings(config, step=0)
    return {key: settings[key] for key in ("image_size", "threshold", "flips")}


def ensemble(predictors: Sequence[Predictor], workdirs: Sequence[pathlib.Path], mean: Mean = mean_logits) -> Predictor:
    """One predictor of the mean probability of several. It has the config and step of the first; networks can differ.

    `workdirs`: their folders, for the error message. `mean`: one of averaging.py.
    Raises UserError if they were not trained for the same targets and image size.
    """
    first = predictors[0]
    for other, workdir in zip(predictors[1:], workdirs[1:], strict=True):
        both = [(tuple(p.config.dataset.targets), p.image_size) for p in (first, other)]
        for key, mine, theirs in zip(("targets", "image_size"), *both, strict=True):
            if mine != theirs:
                raise UserError(
                    f"{workdirs[0]} and {workdir} cannot be averaged: config.dataset.{key} is {mine!r} and {theirs!r}."
                )
    return dataclasses.replace(
        first,
        best_step=None,
        model=Ensemble(tuple(p.model for p in predictors), mean),
        variables={name: tuple(p.variables.get(name, {}) for p in predictors) for name in ("params", "batch_stats")},
        origin=f"the mean of {len(predictors)} runs",
        rule=dataclasses.replace(Rule.not_chosen(answers=first.answers_covid19), positive=first.rule.positive),
    )


def portable(predictor: Predictor) -> Predictor:
    """The same network with the arithmetic that every device and runtime has. Not for an ensemble."""
    config = from_json(to_json(predictor.config))
    config.model.dtype, config.model.layout = "float32", "plain"
    model = build_model(config.model, config.dataset.targets, axis_name=None)
    forward = Flipped(model, portable_mean_logits) if config.eval.flips else model
    return dataclasses.replace(predictor, config=config, model=forward)


def load_shipped(overrides: dict[str, Any] | None = None) -> Predictor:
    """The network that comes with jaxunet, trained on COVID-QU-Ex. `overrides`: as for `load_safetensors`."""
    return dataclasses.replace(load_safetensors(SHIPPED, overrides), origin="the weights that come with jaxunet")


def load_safetensors(path: pathlib.Path | str, overrides: dict[str, Any] | None = None) -> Predictor:
    """The network in a file that `--mode=export --format=safetensors` wrote.

    `overrides`: settings to change, such as `{"eval.threshold": 0.4}`.
    Raises UserError if the file is missing or damaged, has no metadata of jaxunet, or its tensors do not fit them.
    """
    path = pathlib.Path(path)
    tensors, metadata = torch_weights.read_safetensors(path)
    try:
        config, step = from_json(metadata["config"]), int(metadata["checkpoint_step"])
        chosen_with, answers = _rule_settings(config), answers_covid19(config.dataset.targets)
        rule, masks = Rule.not_chosen(answers=answers), config.dataset.targets
        if "detection" in metadata:
            rule = Rule.from_dict(json.loads(metadata["detection"]), answers=answers, masks=(*TARGETS, *masks))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} was not written by --mode=export --format=safetensors, or by an older jaxunet ({error!r})."
        ) from error
    override(config, overrides or {})
    fit_batch_size(config)
    checks.check(config, training=False)
    if not rule.valid_for(_rule_settings(config), chosen_with):
        rule = Rule.not_chosen(answers=answers)
    rule = dataclasses.replace(rule, positive=spec_of(config.dataset).positive)
    model = build_model(config.model, config.dataset.targets, axis_name=None)
    wide = {name: x.astype(np.float32) for name, x in tensors.items()}
    variables = flax.traverse_util.unflatten_dict(wide, sep="/")
    _check_tensors(variables, model, image_size(config.dataset), source=str(path))
    return Predictor(config, step, None, _forward(model, config), replicas.replicate(variables), str(path), rule)


def fit_batch_size(config: ConfigDict) -> None:
    """Rounds `eval.batch_size` up to a multiple of the number of devices. Predictions do not depend on it."""
    devices = jax.device_count()
    config.eval.batch_size = -(-config.eval.batch_size // devices) * devices


def flatten(variables: Any) -> dict[str, np.ndarray]:
    """`{"params": {"encoder": {"conv1": {"kernel": x}}}}` -> `{"params/encoder/conv1/kernel": x}`, in host memory."""
    return flax.traverse_util.flatten_dict(jax.device_get(variables), sep="/")


def _check_tensors(variables: Any, model: Network, size: int, *, source: str) -> None:
    """Raises UserError unless `variables` have the names and shapes that `model` needs for images of `size` pixels."""
    image = jax.ShapeDtypeStruct((1, size, size, 1), np.float32)
    like = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)
    theirs, ours = (
        {name: x.shape for name, x in flax.traverse_util.flatten_dict(tree, sep="/").items()}
        for tree in (variables, like)
    )
    if wrong := sorted(theirs.keys() ^ ours.keys()):
        kind = "has no" if wrong[0] in ours else "has a superfluous"
        raise UserError(f"{source} {kind} tensor {wrong[0]!r}: it does not fit the network in its metadata.")
    for name, shape in theirs.items():
        if shape != ours[name]:
            raise UserError(f"{source}: {name!r} has the shape {shape}, but the network needs {ours[name]}.")
