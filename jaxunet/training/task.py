"""What is learnt: masks of X-rays (segmentation), or classes of images (to pretrain an encoder)."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict
from PIL import Image

from jaxunet.core.errors import UserError
from jaxunet.core.pictures import overlay
from jaxunet.data import prepared
from jaxunet.data.examples import ExampleSource, RawBatch, Source, Split, load_split
from jaxunet.data.specs import LABELLED_IMAGES, masks_of
from jaxunet.data.targets import COVID19, answers_covid19
from jaxunet.devices import replicas
from jaxunet.models.build import Network, build_classifier, build_model
from jaxunet.scoring import detection, protocols, split_pass
from jaxunet.scoring.counts import batch_dice
from jaxunet.scoring.losses import LossFn, build_loss
from jaxunet.scoring.split_pass import eval_classifier_step

_PICTURES = 4  # validation images that are drawn at each validation


@dataclasses.dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
      values: to log.
      rank_value: the watched metric; larger is better.
      words: to print.
      pictures: name -> a validation image with its true and predicted mask.
    """

    values: dict[str, float]
    rank_value: float
    words: str
    pictures: dict[str, Image.Image]


@dataclasses.dataclass(frozen=True)
class Task:
    """What differs between segmentation and classification.

    Attributes:
      watched_metric: "dice" or "accuracy". It is logged during training, and its validation value ranks checkpoints.
      source: training examples, not yet read.
      val: the validation split, in host memory.
      model: the network.
      loss_fn: (network output, target) -> float32 [B].
      score_fn: (network output, target) -> float32 [2]: sum of the watched metric over images, number of images.
      validate: (variables, should_stop) -> Validation; None if it was stopped.
    """

    watched_metric: str
    source: Source
    val: Split
    model: Network
    loss_fn: LossFn
    score_fn: Callable[[Any, Any], Array]
    validate: Callable[[Any, Callable[[], bool]], Validation | None]


def build_task(config: ConfigDict) -> Task:
    """Opens the dataset of `config` and builds its network."""
    return (_classification if config.dataset.name == LABELLED_IMAGES else _segmentation)(config)


def _axis_name(config: ConfigDict) -> str | None:
    return replicas.AXIS if config.model.bn_sync else None


def _segmentation(config: ConfigDict) -> Task:
    targets = tuple(config.dataset.targets)
    source, val = load_segmentation_data(config)
    model = build_model(config.model, targets, axis_name=_axis_name(config))
    eval_fn = split_pass.build_eval_fn(model, config, predicted=True)
    with_mask = np.flatnonzero(val.arrays["mask"][..., 0].any(axis=(1, 2)))
    drawn = val.part(with_mask[: min(_PICTURES, config.eval.overlays)])

    def count(variables: Any, raw: RawBatch) -> dict[str, Array]:
        found = eval_fn(variables, raw)
        del found["mask"]  # of a whole split they could fill the memory
        return found

    def validate(variables: Any, should_stop: Callable[[], bool]) -> Validation | None:
        found = split_pass.map_split(count, variables, val.arrays, config.eval.batch_size, should_stop)
        if found is None:
            return None
        counts = found["counts"]
        summary = split_pass.summarize(counts, val, targets)
        values: dict[str, float] = {
            f"val/{protocol}/{name}": numbers.get("mean", numbers.get("value"))
            for protocol in protocols.PROTOCOLS
            for name, numbers in summary.get(protocol, {}).items()
        }
        shown: list[tuple[str, str]] = [
            (p, f"val/{p}") for p in ("P1", "P2", "P3") if p in protocols.in_words(val.positive_class)
        ]
        rates = {}
        if COVID19 in found:
            rates = detection.detection_rates(found[COVID19], val.positive)
            gated = protocols.summarize(detection.gate(counts[:, 0], found[COVID19]), val.positive)
            values |= {f"val/covid19/{name}": rate for name, rate in rates.items()}
            values |= {f"val/gated/P3/{name}": numbers["mean"] for name, numbers in gated["P3"].items()}
            shown[2] = ("gated P3", "val/gated/P3")
        words = [f"{name} Dice {values[f'{key}/dice']:.4f} IoU {values[f'{key}/iou']:.4f}" for name, key in shown]
        words += [f"COVID-19 {name} {rate:.3f}" for name, rate in rates.items()]
        pictures = {}
        if drawn.ids:
            pictures = _pictures(drawn, split_pass.map_split(eval_fn, variables, drawn.arrays, config.eval.batch_size))
        return Validation(values, values["val/P1/dice"], ", ".join(words), pictures)

    records, share = masks_of(config.dataset), float(np.mean(source.positive))
    loss_fn = build_loss(config.loss, targets, records=records, covid19_share=share)
    return Task("dice", source, val, model, loss_fn, batch_dice, validate)


def _pictures(images: Split, found: dict[str, np.ndarray]) -> dict[str, Image.Image]:
    """Draws the first mask of each image. `found`: of `split_pass.eval_step`."""
    dice = protocols.ratios(found["counts"][:, 0])["dice"]
    predicted = np.unpackbits(found["mask"][..., 0], axis=2).astype(bool)
    captions = [f"{pathlib.PurePosixPath(name).stem}  Dice {d:.3f}" for name, d in zip(images.ids, dice, strict=True)]
    return {
        f"overlay/{i + 1}": overlay(images.image[i], images.truth(i), predicted[i], caption)
        for i, caption in enumerate(captions)
    }


def load_segmentation_data(config: ConfigDict) -> tuple[ExampleSource, Split]:
    """The training examples, not yet read, without those that leak into other splits; the validation split."""
    builder = prepared.open_builder(config.dataset, config.dataset.train_config)
    dropped = prepared.dropped_from_train(builder) if config.dataset.drop_leaked else frozenset()
    near = prepared.near_in_train(builder) if config.dataset.drop_near_duplicates else frozenset()
    source = ExampleSource(
        builder, "train", tuple(config.dataset.targets), image_size=config.dataset.image_size, exclude=dropped | near
    )
    if answers_covid19(config.dataset.targets) and len(set(source.positive)) < 2:
        raise UserError(
            "The target 'covid19' needs training images with and without COVID-19: add the missing kind, or train "
            "without the target: --config.dataset.targets=\"('infection','lung')\"."
        )
    if source.left_out:
        alike = "identical or nearly identical" if near else "identical"
        print(f"{source.left_out} training images are {alike} to a validation or test image and were left out.")
    return source, split_pass.load_eval_split(config, "val")


def _classification(config: ConfigDict) -> Task:
    from jaxunet.data.labelled_images import LabelledImages

    source, val_source = (
        LabelledImages(config.dataset.source, split, image_size=config.dataset.image_size) for split in ("train", "val")
    )
    val = load_split(val_source, threads=config.input.threads)
    model = build_classifier(config.model, classes=len(source.classes), axis_name=_axis_name(config))
    eval_fn = replicas.map_eval_step(lambda variables, raw: eval_classifier_step(variables, raw, model=model))

    def validate(variables: Any, should_stop: Callable[[], bool]) -> Validation | None:
        correct = split_pass.map_split(eval_fn, variables, val.arrays, config.eval.batch_size, should_stop)
        if correct is None:
            return None
        accuracy = float(correct.mean())
        return Validation({"val/accuracy": accuracy}, accuracy, f"accuracy {accuracy:.4f} on {len(correct)} images", {})

    def score(logits: Array, label: Array) -> Array:
        right = jnp.argmax(logits, axis=-1) == label
        return jnp.stack([jnp.sum(right, dtype=jnp.float32), jnp.float32(len(label))])

    return Task("accuracy", source, val, model, build_loss(config.loss, ("class",)), score, validate)
