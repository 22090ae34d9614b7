"""Losses on logits, one number per image, so that every image has the same weight. `LOSSES` lists them.

Cross-entropy is for pretraining encoders on classes: logits float32 [B, K], labels int32 [B].

The others take `logits` float32 [B, H, W, C] and `mask` float32 {0, 1} [B, H, W, C] and return float32 [B]:
the mean over masks. All arithmetic is float32 from logits; half precision is a known source of NaN in Dice.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from jax import Array
from ml_collections import ConfigDict

from jaxunet.data.targets import COVID19, TARGETS, Records, Target, answers_covid19, mask_targets

LossFn = Callable[[Any, Any], Array]  # (what the network returns, `target` of `batches.decode`) -> float32 [B]
MaskLoss = Callable[[Array, Array], Array]  # (logits, mask) -> float32 [B]


def bce_loss(logits: Array, mask: Array) -> Array:
    """Binary cross-entropy with logits, mean over pixels and classes."""
    return optax.losses.sigmoid_binary_cross_entropy(logits, mask).mean(axis=(1, 2, 3))


def dice_loss(logits: Array, mask: Array, *, smooth: float) -> Array:
    """1 - soft Dice (Milletari et al. 2016, arXiv:1606.04797, without the squares), per image and class.

    `smooth`, in pixels, is added to numerator and denominator. It gives empty masks a finite, useful gradient.
    """
    return tversky_loss(logits, mask, alpha=0.5, beta=0.5, smooth=smooth / 2)


def tversky_loss(logits: Array, mask: Array, *, alpha: float, beta: float, smooth: float) -> Array:
    """1 - Tversky index (Salehi et al. 2017, arXiv:1706.05721): `alpha` weighs fp, `beta` weighs fn."""
    p = jax.nn.sigmoid(logits)
    tp = (p * mask).sum(axis=(1, 2))
    fp = (p * (1 - mask)).sum(axis=(1, 2))
    fn = ((1 - p) * mask).sum(axis=(1, 2))
    return (1 - (tp + smooth) / (tp + alpha * fp + beta * fn + smooth)).mean(axis=-1)


def focal_loss(logits: Array, mask: Array, *, gamma: float, alpha: float) -> Array:
    """Focal loss (Lin et al. 2017, arXiv:1708.02002), mean over pixels; `alpha` weighs the infected class."""
    return optax.losses.sigmoid_focal_loss(logits, mask, alpha=alpha, gamma=gamma).mean(axis=(1, 2, 3))


def bce_dice_loss(logits: Array, mask: Array, *, smooth: float) -> Array:
    """The sum of `bce_loss` and `dice_loss`."""
    return bce_loss(logits, mask) + dice_loss(logits, mask, smooth=smooth)


@dataclasses.dataclass(frozen=True)
class Loss:
    """A row of `LOSSES`.

    Attributes:
      function: takes logits, truth and `settings`.
      settings: further argument -> its key in `config.loss`.
      of_classes: whether it is for classes instead of masks.
    """

    function: Callable[..., Array]
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    of_classes: bool = False


LOSSES = {
    "bce": Loss(bce_loss),
    "dice": Loss(dice_loss, {"smooth": "smooth"}),
    "bce_dice": Loss(bce_dice_loss, {"smooth": "smooth"}),
    "focal": Loss(focal_loss, {"gamma": "focal_gamma", "alpha": "focal_alpha"}),
    "tversky": Loss(tversky_loss, {"alpha": "tversky_alpha", "beta": "tversky_beta", "smooth": "smooth"}),
    "cross_entropy": Loss(optax.losses.softmax_cross_entropy_with_integer_labels, of_classes=True),
}


def build_loss(
    loss: ConfigDict, targets: Sequence[str], *, records: Records = TARGETS, covid19_share: float = 0.5
) -> LossFn:
    """The loss that `config.loss` describes, for `config.dataset.targets`.

    With the target "covid19", `records` describe the masks, and `covid19_share`, in (0, 1), is the share of COVID-19
    images in training.
    """
    row = LOSSES[loss.name]
    function = functools.partial(row.function, **{name: loss[key] for name, key in row.settings.items()})
    if row.of_classes:
        return function
    if answers_covid19(targets):
        return _with_covid19(function, [records[name] for name in mask_targets(targets)], covid19_share)
    return lambda outputs, target: function(outputs["masks"], target["masks"])


def _with_covid19(mask_loss: MaskLoss, masks: Sequence[Target], covid19_share: float) -> LossFn:
    """Mean of `mask_loss` for each mask and binary cross-entropy for "covid19", all of the same weight.

    A mask with `learnt_from` learns from COVID-19 images only: the answer says whether, the mask says where. A mask
    that also learns from blank masks of controls misses lesions. Each loss is a mean over the images that the target
    learns from.
    """

    def loss(outputs: dict[str, Array], target: dict[str, Array]) -> Array:
        answer = target[COVID19]
        total = optax.losses.sigmoid_binary_cross_entropy(outputs[COVID19], answer)
        for i, record in enumerate(masks):
            value = mask_loss(outputs["masks"][..., i : i + 1], target["masks"][..., i : i + 1])
            total += value * answer / covid19_share if record.learnt_from else value
        return total / (len(masks) + 1)

    return loss
