"""Segmentation losses on logits, one number per image, so that every image weighs the same in any batch.

Cross-entropy is there besides, to pretrain encoders on classes: logits float32 [B, K], labels int32 [B].

Each of the others takes `logits` float32 [B, H, W, C] and `mask` float32 {0, 1} [B, H, W, C] and returns float32 [B]:
classes are averaged, never pooled. Everything is computed in float32 from logits; no probability is ever rounded to
half precision (a known source of NaN in Dice).
"""

from collections.abc import Callable, Sequence

import jax
import optax
from jax import Array
from ml_collections import ConfigDict

from jaxunet.data.targets import COVID19

LossFn = Callable[[Array, Array], Array]


def bce_loss(logits: Array, mask: Array) -> Array:
    """Binary cross-entropy with logits, mean over pixels and classes."""
    return optax.losses.sigmoid_binary_cross_entropy(logits, mask).mean(axis=(1, 2, 3))


def dice_loss(logits: Array, mask: Array, *, smooth: float) -> Array:
    """1 - soft Dice (Milletari et al. 2016, arXiv:1606.04797, without the squares), per image and class.

    `smooth` is in pixels, added to numerator and denominator: an empty mask then has a finite, useful gradient.
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


def with_covid19(mask_loss: LossFn, targets: Sequence[str], covid19_share: float) -> LossFn:
    """`mask_loss` of the masks, and binary cross-entropy of the last logit, which answers for the whole image.

    Infection is learnt from COVID-19 images alone: its map says where, if it is COVID-19, and the answer says whether.
    A map that learns both from blank masks of controls grows surer of the second, and loses whole lesions where it is
    wrong. Every target counts alike, each as its mean over the images that teach it.

    Args:
      mask_loss: (logits, mask) -> float32 [B].
      targets: what the last axis stands for; "covid19" is the last.
      covid19_share: of the training images, in (0, 1).
    """
    masks = targets[:-1]

    def loss(logits: Array, target: Array) -> Array:
        if logits.shape != target.shape:
            raise ValueError(f"logits {logits.shape} are not those of {tuple(targets)}, {target.shape}")
        answer = target[:, 0, 0, -1]
        total = optax.losses.sigmoid_binary_cross_entropy(logits[:, 0, 0, -1], answer)
        for i, name in enumerate(masks):
            value = mask_loss(logits[..., i : i + 1], target[..., i : i + 1])
            total += value * answer / covid19_share if name == "infection" else value
        return total / len(targets)

    return loss


def build_loss(loss: ConfigDict, targets: Sequence[str], *, covid19_share: float = 0.5) -> LossFn:
    """The loss that `config.loss` names, for `config.dataset.targets`: `(logits, target) -> [B]`."""
    if COVID19 in targets:
        return with_covid19(_mask_loss(loss), targets, covid19_share)
    return _mask_loss(loss)


def _mask_loss(loss: ConfigDict) -> LossFn:
    if loss.name == "cross_entropy":
        return optax.losses.softmax_cross_entropy_with_integer_labels
    if loss.name == "bce":
        return bce_loss
    if loss.name == "dice":
        return lambda logits, mask: dice_loss(logits, mask, smooth=loss.smooth)
    if loss.name == "bce_dice":
        return lambda logits, mask: bce_loss(logits, mask) + dice_loss(logits, mask, smooth=loss.smooth)
    if loss.name == "focal":
        return lambda logits, mask: focal_loss(logits, mask, gamma=loss.focal_gamma, alpha=loss.focal_alpha)
    if loss.name == "tversky":
        return lambda logits, mask: tversky_loss(
            logits, mask, alpha=loss.tversky_alpha, beta=loss.tversky_beta, smooth=loss.smooth
        )
    raise ValueError(f"unknown loss {loss.name!r}")
