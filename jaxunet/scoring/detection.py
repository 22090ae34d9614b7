"""COVID-19 or not: chooses, applies, words, saves and reads the rule for a whole image."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
from ml_collections import ConfigDict

from jaxunet.data.specs import image_size
from jaxunet.data.targets import TARGETS, mask_targets

RESEMBLES = "resembles the COVID-19 images of the training data"  # the meaning of the answer "COVID-19"
ELSEWHERE = (  # measured with the shipped network
    "On 54 X-rays of another hospital group the answer has a ROC AUC of 0.46 (on Test of COVID-QU-Ex 0.993): "
    "it is no better than chance there."
)
COVID_19 = "COVID-19"  # the positive class of the datasets that come with jaxunet
PROBABILITY, IMAGE = "probability", "image"  # values of `Rule.decides` that are not the name of an organ


@dataclasses.dataclass(frozen=True)
class Rule:
    """An image is called COVID-19 if its decision variable exceeds a threshold.

    Attributes:
      decides: the decision variable. "probability": the network's answer for the whole image. "image", or an organ such
        as "lung": its infected share.
      threshold: in [0, 1].
      source: origin of the threshold, in words.
      positive: the class that it tells from others; None for a dataset without one, whose images get no answer.
    """

    decides: str
    threshold: float
    source: str = ""
    positive: str | None = COVID_19

    # ---- chosen

    @classmethod
    def not_chosen(cls, *, answers: bool) -> Self:
        """The rule before an evaluation chooses one. `answers`: whether the network gives a probability."""
        if answers:
            return cls(PROBABILITY, 0.5, "not chosen on val: the more likely answer")
        return cls(IMAGE, 0.0, "not chosen on val: any infected pixel counts")

    @classmethod
    def chosen(cls, decides: str, values: np.ndarray, positive: np.ndarray) -> Self:
        """The threshold of the largest Youden's J = sensitivity + specificity - 1 (Youden 1950) on these images.

        It lies halfway between two values of these images. If several are equally good, it is the lowest. Sensitivity
        and specificity on the same images are optimistic.

        Args:
          decides: see `Rule`.
          values: float [N] in [0, 1], the decision variable of each image.
          positive: bool [N], which images are COVID-19. Both classes must occur.
        """
        known = np.unique(values)
        middles = (known[1:] + known[:-1]) / 2 if len(known) > 1 else known
        missed, specificity = (
            np.searchsorted(np.sort(values[chosen]), middles, side="right") / chosen.sum()
            for chosen in (positive, ~positive)
        )
        best = float(middles[np.argmax((1 - missed) + specificity)])
        return cls(decides, best, "the largest Youden's J on these images")

    # ---- applied

    def calls(self, values: Any) -> Any:
        """Whether each image is called COVID-19. `values`, the decision variable: float or float [N]."""
        return values > self.threshold

    def calls_xray(self, measures: dict[str, Any], probability: float | None) -> bool | None:
        """Whether one X-ray is called COVID-19; None if the network has no infection mask.

        Args:
          measures: from `measures.measure`. If no organ was found, the infected share is 0.
          probability: of COVID-19 for the whole image, in [0, 1], if the network answers that.
        """
        if measures["infected_pixels"] is None or self.positive is None:
            return None
        if self.decides == PROBABILITY:
            return self.calls(probability)
        percent = measures["infected_share_percent" if self.decides == IMAGE else "severity_percent"] or 0.0
        return percent > 100 * self.threshold

    # ---- worded

    @property
    def variable(self) -> str:
        """The decision variable, in words."""
        if self.decides == PROBABILITY:
            return "probability of COVID-19 for the whole image"
        return f"predicted infected share of the {self.decides}"

    def __str__(self) -> str:
        """The rule as a sentence without its full stop."""
        if self.decides == PROBABILITY:
            return f"{self.positive} if its probability is above {self.threshold:.4f}"
        verb = "infected" if self.positive == COVID_19 else "marked"
        return f"{self.positive} if more than {self.threshold:.4%} of the {self.decides} is {verb}"

    # ---- saved and read back

    def to_dict(self) -> dict[str, Any]:
        """The rule as saved with predictions. The metadata of a file add `{"from": source}`."""
        return {"score": self.decides, "threshold": self.threshold}

    @classmethod
    def from_dict(cls, saved: dict[str, Any], *, answers: bool, masks: Iterable[str] = TARGETS) -> Self:
        """The rule from the metadata of a file or the block `detection` of a metrics.json.

        Args:
          saved: has `score`, `threshold`, and maybe `from` or `threshold_from`.
          answers: whether the network gives a probability.
          masks: of its dataset.

        Raises:
          ValueError, TypeError, KeyError: if this is not a rule for such a network.
        """
        decides, threshold = saved["score"], float(saved["threshold"])
        able = (PROBABILITY,) if answers else (*mask_targets(masks), IMAGE)
        if decides not in able or not 0 <= threshold <= 1:
            raise ValueError(f"the network cannot decide on COVID-19 by {decides!r} above {threshold}")
        return cls(decides, threshold, str(saved.get("from", saved.get("threshold_from", ""))))

    @classmethod
    def of_val(
        cls,
        metrics: pathlib.Path,
        settings: dict[str, Any],
        *,
        answers: bool,
        source: str,
        masks: Iterable[str] = TARGETS,
    ) -> Self | None:
        """The rule chosen by an evaluation of Val; None without an evaluation with these settings.

        Args:
          metrics: `eval/val/metrics.json`.
          settings: see `rule_settings`.
          answers: whether the network gives a probability.
          source: origin of the threshold, in words.
          masks: of the network's dataset.
        """
        try:
            val = {"flips": False, "members": [], **json.loads(metrics.read_text())}
            block = next(b["detection"] for b in (val, *val.get("targets", {}).values()) if "detection" in b)
            rule = cls.from_dict({**block, "from": source}, answers=answers, masks=masks)
            rule = dataclasses.replace(rule, positive=val.get("positive_class") or rule.positive)
            return rule if rule.valid_for(settings, val) else None
        except (OSError, KeyError, ValueError, TypeError, AttributeError, StopIteration):
            return None

    def valid_for(self, settings: dict[str, Any], chosen_with: dict[str, Any]) -> bool:
        """Whether `settings`, some or all of `rule_settings`, equal those of `chosen_with`. Only rules on mask area
        depend on the pixel threshold, `settings["threshold"]`."""
        keys = settings.keys() - ({"threshold"} if self.decides == PROBABILITY else set())
        return all(chosen_with[key] == settings[key] for key in keys)


def rule_settings(config: ConfigDict, *, step: int, members: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """What a rule is valid for, with the keys and values of metrics.json. A rule chosen with others is not used.

    Args:
      config: of the network.
      step: of its checkpoint.
      members: entries of metrics.json for the runs that the network averages.
    """
    size = image_size(config.dataset)
    return {
        "dataset": f"{config.dataset.name}/{config.dataset.eval_config}",
        "image_size": [size, size],
        "target": mask_targets(config.dataset.targets)[0],
        "threshold": config.eval.threshold,
        "flips": config.eval.flips,
        "checkpoint_step": step,
        "members": list(members),
    }


def detection_rates(called: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    """`sensitivity` and `specificity`; one is left out if there are no images for it.

    Args:
      called: bool [N], which images are called COVID-19.
      positive: bool [N], which are.
    """
    rates = {"sensitivity": called[positive], "specificity": ~called[~positive]}
    return {name: float(np.count_nonzero(right) / len(right)) for name, right in rates.items() if len(right)}


def gate(counts: np.ndarray, called: np.ndarray) -> np.ndarray:
    """`counts` int [N, 4] with blank predictions for the images that are not `called` bool [N]."""
    tp, fp, fn, tn = np.moveaxis(counts, -1, 0)
    none = np.zeros_like(tp)
    return np.where(called[:, None], counts, np.stack([none, none, tp + fn, fp + tn], axis=1))
