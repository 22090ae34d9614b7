"""COVID-19 or not: the rule for a whole image is chosen, applied, worded, saved and read back here."""

import dataclasses
import json
import pathlib
from typing import Any, Self

import numpy as np

from jaxunet.data.targets import known_masks

RESEMBLES = "resembles the COVID-19 images of the training data"  # what the answer "COVID-19" means, and no more
ELSEWHERE = (  # with the network that comes along
    "On 54 X-rays of another hospital group the answer has a ROC AUC of 0.46 (on COVID-QU-Ex 0.993): "
    "it is no better than chance there."
)
PROBABILITY, IMAGE = "probability", "image"  # what decides; else it is the share of an organ, named by its target


@dataclasses.dataclass(frozen=True)
class Rule:
    """An image is called COVID-19 if what decides exceeds a threshold.

    Attributes:
      decides: "probability", the network's answer for the whole image; or the infected share of an organ, such as
        "lung"; or the infected share of the "image".
      threshold: in [0, 1].
      source: where the threshold is from, in words.
    """

    decides: str
    threshold: float
    source: str = ""

    # ---- chosen

    @classmethod
    def not_chosen(cls, *, answers: bool) -> Self:
        """The rule until an evaluation chooses one. `answers`: whether the network gives a probability."""
        if answers:
            return cls(PROBABILITY, 0.5, "not chosen on val: the more likely answer")
        return cls(IMAGE, 0.0, "not chosen on val: any infected pixel counts")

    @classmethod
    def chosen(cls, decides: str, values: np.ndarray, positive: np.ndarray) -> Self:
        """The threshold of the largest Youden's J = sensitivity + specificity - 1 (Youden 1950) on these images.

        It lies halfway between two values that occur; of equals, the lowest. Sensitivity and specificity on the same
        images are optimistic.

        Args:
          decides: see `Rule`.
          values: float [N], in [0, 1], what decides of each image.
          positive: bool [N], which images are COVID-19. Both kinds must occur.
        """
        known = np.unique(values)
        middles = (known[1:] + known[:-1]) / 2 if len(known) > 1 else known
        sensitivity, specificity = (
            1 - np.searchsorted(np.sort(values[positive]), middles, side="right") / positive.sum(),
            np.searchsorted(np.sort(values[~positive]), middles, side="right") / (~positive).sum(),
        )
        best = float(middles[np.argmax(sensitivity + specificity)])
        return cls(decides, best, "the largest Youden's J on these images")

    # ---- applied

    def calls(self, values: Any) -> Any:
        """Whether each image is COVID-19: float, or float [N] -> bool, or bool [N]. `values` is what decides."""
        return values > self.threshold

    def calls_xray(self, measures: dict[str, Any], probability: float | None) -> bool | None:
        """Whether one X-ray is COVID-19; None if the network predicts no infection.

        Args:
          measures: of `measures.measure`. Without any organ in the image its share is 0.
          probability: of COVID-19 for the whole image, in [0, 1], if the network answers that.
        """
        if measures["infected_pixels"] is None:
            return None
        if self.decides == PROBABILITY:
            return self.calls(probability)
        percent = measures["infected_share_percent" if self.decides == IMAGE else "severity_percent"] or 0.0
        return percent > 100 * self.threshold

    # ---- worded

    @property
    def variable(self) -> str:
        """What decides, in words."""
        if self.decides == PROBABILITY:
            return "probability of COVID-19 for the whole image"
        return f"predicted infected share of the {self.decides}"

    def __str__(self) -> str:
        """The rule as a sentence without its full stop."""
        if self.decides == PROBABILITY:
            return f"COVID-19 if its probability is above {self.threshold:.4f}"
        return f"COVID-19 if more than {self.threshold:.4%} of the {self.decides} is infected"

    # ---- saved and read back

    def to_dict(self) -> dict[str, Any]:
        """The rule as the settings of predictions have it; `| {"from": source}` in the metadata of a file."""
        return {"score": self.decides, "threshold": self.threshold}

    @classmethod
    def from_dict(cls, saved: dict[str, Any], *, answers: bool) -> Self:
        """The rule in the metadata of a file or in the block `detection` of a metrics.json.

        Args:
          saved: has `score`, `threshold`, and maybe `from` or `threshold_from`.
          answers: whether the network gives a probability.

        Raises:
          ValueError, TypeError, KeyError: if this is no rule, or none for such a network.
        """
        decides, threshold = saved["score"], float(saved["threshold"])
        if (
            decides not in (PROBABILITY, *known_masks(), IMAGE)
            or (decides == PROBABILITY) != answers
            or not 0 <= threshold <= 1
        ):
            raise ValueError(f"COVID-19 is not told by {decides!r} above {threshold}")
        return cls(decides, threshold, str(saved.get("from", saved.get("threshold_from", ""))))

    @classmethod
    def of_val(cls, metrics: pathlib.Path, settings: dict[str, Any], *, answers: bool, source: str) -> Self | None:
        """The rule that an evaluation of Val chose, or None if there is no such evaluation with these settings.

        Args:
          metrics: `eval/val/metrics.json`.
          settings: of the network and its data, by the keys of metrics.json; see `valid_for`.
          answers: whether the network gives a probability.
          source: words for where the threshold is from.
        """
        try:
            val = {"flips": False, "members": [], **json.loads(metrics.read_text())}
            block = next(b["detection"] for b in (val, *val.get("targets", {}).values()) if "detection" in b)
            rule = cls.from_dict({**block, "from": source}, answers=answers)
            return rule if rule.valid_for(settings, val) else None
        except (OSError, KeyError, ValueError, TypeError, AttributeError, StopIteration):
            return None

    def valid_for(self, settings: dict[str, Any], chosen_with: dict[str, Any]) -> bool:
        """Whether `settings` equal those that the rule was chosen with. Rules on mask area also depend on the pixel
        threshold, `settings["threshold"]`; a rule on the probability does not."""
        keys = settings.keys() - ({"threshold"} if self.decides == PROBABILITY else set())
        return all(chosen_with[key] == settings[key] for key in keys)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logits float [N] -> probabilities float64 [N], on the host."""
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def detection_rates(called: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    """`sensitivity` and `specificity`, where there are such images.

    Args:
      called: bool [N], which images are called COVID-19.
      positive: bool [N], which are.
    """
    rates = {"sensitivity": called[positive], "specificity": ~called[~positive]}
    return {name: float(np.count_nonzero(right) / len(right)) for name, right in rates.items() if len(right)}


def gate(counts: np.ndarray, called: np.ndarray) -> np.ndarray:
    """`counts` int [N, 4] as if nothing had been predicted in the images that are not `called` bool [N]."""
    tp, fp, fn, tn = np.moveaxis(counts, -1, 0)
    none = np.zeros_like(tp)
    return np.where(called[:, None], counts, np.stack([none, none, tp + fn, fp + tn], axis=1))
