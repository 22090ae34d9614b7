"""A trained network, ready for any number of X-rays of one size: what predicts, exports and serves starts from here."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, overload

import flax
import jax
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.data import batches
from jaxunet.data.examples import RawBatch
from jaxunet.data.specs import LABELLED_IMAGES, image_size, spec_of
from jaxunet.data.targets import COVID19, answers_covid19, mask_targets
from jaxunet.devices import replicas
from jaxunet.models import torch_weights
from jaxunet.models.averaging import Ensemble, Flipped
from jaxunet.models.build import Forward, Network, build_model, predict_step
from jaxunet.prediction.prediction import Prediction
from jaxunet.runs import checks
from jaxunet.runs.checkpoint import Checkpoints, DamagedCheckpoint
from jaxunet.runs.config_file import from_json, override
from jaxunet.scoring import split_pass
from jaxunet.scoring.detection import Rule, sigmoid
from jaxunet.xrays import letterbox
from jaxunet.xrays.files import names_of
from jaxunet.xrays.pixels import Xray
from jaxunet.xrays.read import Source, read_xray

SHIPPED = pathlib.Path(__file__).parents[1] / "weights" / "unet.safetensors"


@dataclasses.dataclass(frozen=True)
class Fitted:
    """An X-ray, the square uint8 [S, S] of it that the network takes, and where it lies in that."""

    name: str
    xray: Xray
    square: np.ndarray
    place: letterbox.Placement


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Predictor:
    """A checkpoint with the network and the settings that it was trained with.

    Attributes:
      config: of the run.
      step: of the checkpoint.
      best_step: of the one that was best in validation, if any was validated.
      model, variables: the network, and its weights and running statistics (the averages where they were kept). With
        `config.eval.flips`, or of an ensemble, the network is one of averaging.py.
      origin: where it is from, in words.
      rule: when an image counts as COVID-19.
    """

    config: ConfigDict
    step: int
    best_step: int | None
    model: Forward
    variables: Any
    origin: str
    rule: Rule = Rule.not_chosen(answers=False)

    @property
    def targets(self) -> tuple[str, ...]:
        """The masks that the last axis of `outputs(...)["masks"]` stands for, such as ("infection", "lung")."""
        return mask_targets(self.config.dataset.targets)

    @property
    def answers_covid19(self) -> bool:
        """Whether the network also answers for the whole image."""
        return answers_covid19(self.config.dataset.targets)

    @property
    def image_size(self) -> int:
        """Pixels per side of the square images that the network was trained on."""
        return image_size(self.config.dataset)

    @property
    def gate(self) -> bool:
        """Whether the infection mask of an X-ray that is not called COVID-19 is left blank."""
        return self.answers_covid19 and self.config.eval.gate

    @property
    def checked(self) -> bool:
        """Whether pictures that are no frontal chest X-ray get no severity and no answer; see `frontal.refusal`."""
        return spec_of(self.config.dataset).frontal

    @property
    def threshold(self) -> float:
        """A pixel is positive where its probability exceeds this: `metrics.positive(logits, threshold)`."""
        return self.config.eval.threshold

    def __repr__(self) -> str:
        return f"<Predictor: {self.in_words}>"

    @property
    def in_words(self) -> str:
        """What it predicts and where it is from, as `--mode=predict` and `--mode=serve` print it."""
        return (
            f"{' and '.join(self.targets)} from step {self.step} of {self.origin}, {self.image_size} pixels per side, "
            f"threshold {self.threshold}"
        )

    @overload
    def predict(self, xray: Source) -> Prediction: ...

    @overload
    def predict(self, xray: list[Any] | tuple[Any, ...]) -> list[Prediction]: ...

    def predict(self, xray: Source | list[Any] | tuple[Any, ...]) -> Prediction | list[Prediction]:
        """Predicts one X-ray, or several in batches of at most `config.eval.batch_size`.

        Args:
          xray: what `read_xray` takes, of any size: a path, the bytes of a file, a NumPy array [H, W] or an `Xray`; or
            a list or tuple of them.

        Returns:
          The prediction; of a list, a list in the same order.

        Raises:
          UserError: if an X-ray cannot be used.
        """
        sources: list[Any] = list(xray) if isinstance(xray, list | tuple) else [xray]
        names, size, found = names_of(sources), self.batch_size(len(sources)), []
        for start in range(0, len(sources), size):
            part = range(start, min(start + size, len(sources)))
            found += self.predict_fitted([self.fit(names[i], read_xray(sources[i])) for i in part], batch_size=size)
        return found if isinstance(xray, list | tuple) else found[0]

    def fit(self, name: str, xray: Xray) -> Fitted:
        """Scales an X-ray to `image_size`; its prediction will have the name `name`."""
        square, place = letterbox.fit(xray.pixels, self.image_size)
        return Fitted(name, xray, square, place)

    def predict_fitted(self, xrays: Sequence[Fitted], *, batch_size: int) -> list[Prediction]:
        """The predictions of X-rays from `fit`, in the same order; each `batch_size` is compiled once."""
        if not xrays:
            return []
        found = self.outputs(np.stack([x.square for x in xrays]), batch_size)
        answers = sigmoid(found[COVID19]).tolist() if COVID19 in found else [None] * len(xrays)
        return [
            Prediction(
                *(x.name, x.xray, x.place, logits, self.targets, answer),
                threshold=self.threshold,
                rule=self.rule,
                gate=self.gate,
                checked=self.checked,
            )
            for x, logits, answer in zip(xrays, found["masks"], answers, strict=True)
        ]

    def batch_size(self, images: int) -> int:
        """Of batches for so many images: a power of 2 per device, so that few programs are compiled, and at most
        `config.eval.batch_size`."""
        size = jax.device_count()
        while size < images:
            size *= 2
        return min(size, self.config.eval.batch_size)

    def outputs(self, images: np.ndarray, batch_size: int | None = None) -> dict[str, np.ndarray]:
        """Predicts in batches over all devices, compiled once for each size of a batch.

        Args:
          images: uint8 [N, S, S] in [0, 255], S being `image_size`.
          batch_size: None for `config.eval.batch_size`.

        Returns:
          Logits: `masks` float32 [N, S, S, C], C being the number of `targets`; and `covid19` float32 [N] if
          `answers_covid19`.
        """
        if not len(images):
            answer = {COVID19: np.empty(0, np.float32)} if self.answers_covid19 else {}
            return {"masks": np.empty((*images.shape, len(self.targets)), np.float32), **answer}
        batch_size = batch_size or self.config.eval.batch_size
        return split_pass.map_split(self._compiled, self.variables, {"image": images}, batch_size)

    @functools.cached_property
    def _compiled(self) -> Callable[[Any, RawBatch], dict[str, Array]]:
        def outputs(variables: Any, raw: RawBatch) -> dict[str, Array]:
            return predict_step(variables, batches.decode_image(raw), model=self.model)

        return replicas.map_eval_step(outputs)


def load(config: ConfigDict, workdir: pathlib.Path, *, checkpoint: str) -> Predictor:
    """The network of a run, from its workdir alone.

    Args:
      config: of the run, as `config.load` gives it, maybe with another threshold or batch size.
      workdir: of the run.
      checkpoint: "latest", "best" or a step.

    Raises:
      UserError: if there is no such checkpoint, or the run learnt classes instead of masks.
    """
    checks.check(config, training=False)
    if config.dataset.name == LABELLED_IMAGES:
        raise UserError(f"{workdir} learnt classes, not masks: its accuracy in validation is in metrics.jsonl.")
    size = image_size(config.dataset)
    model = build_model(config.model, config.dataset.targets, axis_name=None)
    with Checkpoints(workdir, config.checkpoint) as checkpoints:
        step, best = checkpoints.resolve(checkpoint), checkpoints.best_step()
        try:
            variables = checkpoints.restore_weights(step)
            _check_tensors(variables, model, size, source=f"Checkpoint {step} in {workdir}")
        except DamagedCheckpoint as error:
            raise UserError(f"{error} Name another with --checkpoint, or train on, which puts it aside.") from error
    rule = _rule_of_val(config, workdir, step)
    network = Flipped(model) if config.eval.flips else model
    return Predictor(config, step, best, network, replicas.replicate(variables), str(workdir), rule)


def _rule_of_val(config: ConfigDict, workdir: pathlib.Path, step: int) -> Rule:
    """What `--mode=evaluate --split=val` chose for this checkpoint with the same settings, else the default."""
    answers = answers_covid19(config.dataset.targets)
    settings = _settings(config) | {
        "checkpoint_step": step,
        "dataset": f"{config.dataset.name}/{config.dataset.eval_config}",
        "target": mask_targets(config.dataset.targets)[0],
        "members": [],
    }
    metrics = workdir / "eval" / "val" / "metrics.json"
    rule = Rule.of_val(metrics, settings, answers=answers, source="chosen on val")
    return rule or Rule.not_chosen(answers=answers)


def _settings(config: ConfigDict) -> dict[str, Any]:
    """Settings that a rule is valid for, as `Rule.valid_for` takes them."""
    size = image_size(config.dataset)
    return {"image_size": [size, size], "threshold": config.eval.threshold, "flips": config.eval.flips}


def ensemble(predictors: Sequence[Predictor], workdirs: Sequence[pathlib.Path]) -> Predictor:
    """The mean probability of several runs, as one predictor with the config and step of the first.

    Args:
      predictors: at least one; of different networks if need be.
      workdirs: theirs, for what is said if they do not fit together.

    Raises:
      UserError: if they were not trained for the same masks and image size.
    """
    first = predictors[0]
    for other, workdir in zip(predictors[1:], workdirs[1:], strict=True):
        both = [(tuple(p.config.dataset.targets), p.image_size) for p in (first, other)]
        for key, mine, theirs in zip(("targets", "image_size"), *both, strict=True):
            if mine != theirs:
                raise UserError(
                    f"{workdirs[0]} and {workdir} cannot be averaged: config.dataset.{key} is {mine!r} and {theirs!r}."
                )
    variables = {name: tuple(p.variables.get(name, {}) for p in predictors) for name in ("params", "batch_stats")}
    model, origin = Ensemble(tuple(p.model for p in predictors)), f"the mean of {len(predictors)} runs"
    return Predictor(
        first.config, first.step, None, model, variables, origin, Rule.not_chosen(answers=first.answers_covid19)
    )


def load_shipped(overrides: dict[str, Any] | None = None) -> Predictor:
    """The network that comes with jaxunet, trained on COVID-QU-Ex; arguments as of `load_safetensors`."""
    found = load_safetensors(SHIPPED, overrides)
    return dataclasses.replace(found, origin="the weights that come with jaxunet")


def load_safetensors(path: pathlib.Path | str, overrides: dict[str, Any] | None = None) -> Predictor:
    """The network of a file that `--mode=export --format=safetensors` wrote; the file alone is enough.

    Args:
      path: the file.
      overrides: settings to change, such as `{"eval.threshold": 0.4}`.

    Raises:
      UserError: if it is absent, damaged, of another kind, or its tensors are not those of the network it describes.
    """
    path = pathlib.Path(path)
    tensors, metadata = torch_weights.read_safetensors(path)
    try:
        config, step = from_json(metadata["config"]), int(metadata["checkpoint_step"])
        chosen_with, answers = _settings(config), answers_covid19(config.dataset.targets)
        rule = Rule.not_chosen(answers=answers)
        if "detection" in metadata:
            rule = Rule.from_dict(json.loads(metadata["detection"]), answers=answers)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} was not written by --mode=export --format=safetensors, or by an older jaxunet ({error!r} in it)."
        ) from error
    override(config, overrides or {})
    fit_batch_size(config)
    checks.check(config, training=False)
    if not rule.valid_for(_settings(config), chosen_with):
        rule = Rule.not_chosen(answers=answers)
    model = build_model(config.model, config.dataset.targets, axis_name=None)
    wide = {name: x.astype(np.float32) for name, x in tensors.items()}
    variables = flax.traverse_util.unflatten_dict(wide, sep="/")
    _check_tensors(variables, model, image_size(config.dataset), source=str(path))
    network = Flipped(model) if config.eval.flips else model
    return Predictor(config, step, None, network, replicas.replicate(variables), str(path), rule)


def fit_batch_size(config: ConfigDict) -> None:
    """Rounds `eval.batch_size` up to what the devices share evenly; where every image counts by itself, no matter."""
    devices = jax.device_count()
    config.eval.batch_size = -(-config.eval.batch_size // devices) * devices


def flatten(variables: Any) -> dict[str, np.ndarray]:
    """`{"params": {"encoder": {"conv1": {"kernel": x}}}}` -> `{"params/encoder/conv1/kernel": x}`, on the host."""
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
        raise UserError(f"{source} {kind} tensor {wrong[0]!r}: it is not of the network that its metadata describe.")
    for name, shape in theirs.items():
        if shape != ours[name]:
            raise UserError(f"{source}: {name!r} has the shape {shape}, and the network needs {ours[name]}.")
