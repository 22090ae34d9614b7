"""What a network learns to predict of an X-ray: the masks and answers that `config.dataset.targets` may name.

Everything else asks the records here. A mask of your own is one more row: see docs/add_a_target.md.
"""

import dataclasses
from collections.abc import Iterable, Sequence

Code = tuple[str, str, str]  # of DICOM: value, scheme, meaning
_STRUCTURE = ("91723000", "SCT", "Anatomical Structure")
_ABNORMAL = ("49755003", "SCT", "Morphologically Abnormal Structure")


@dataclasses.dataclass(frozen=True)
class Target:
    """A mask, or an answer for the whole image.

    Attributes:
      name: in configs, file names and tables. A dataset has the masks as the feature `<name>_mask`.
      kind: "mask" or "image".
      colour: RGB, each in [0, 255], of its outline.
      category, code: what a DICOM Segmentation calls it.
      within: the organ, another mask, that a finding lies in. Areas, severity and detection are of the finding.
      learnt_from: an answer for the whole image. Where that is learnt too, only images with the answer yes teach this
        mask, and predictions leave it blank where the network answers no.
    """

    name: str
    kind: str = "mask"
    colour: tuple[int, int, int] = (240, 200, 60)
    category: Code = _STRUCTURE
    code: Code = _STRUCTURE
    within: str = ""
    learnt_from: str = ""


COVID19 = "covid19"  # also the key of the answer in what a network returns, and of its parameters
TARGETS = {
    target.name: target
    for target in (
        Target(
            "infection",
            colour=(240, 70, 60),
            category=_ABNORMAL,
            code=("233604007", "SCT", "Pneumonia"),
            within="lung",
            learnt_from=COVID19,
        ),
        Target("lung", colour=(70, 160, 240), code=("39607008", "SCT", "Lung")),
        Target(COVID19, kind="image"),
    )
}


def known_masks() -> tuple[str, ...]:
    """The names of all masks."""
    return tuple(target.name for target in TARGETS.values() if target.kind == "mask")


def mask_targets(targets: Iterable[str]) -> tuple[str, ...]:
    """Those of `config.dataset.targets` that are masks, also ones that nobody knows."""
    return tuple(name for name in targets if name not in TARGETS or TARGETS[name].kind == "mask")


def answers_covid19(targets: Iterable[str]) -> bool:
    """Whether `config.dataset.targets` has the answer for the whole image."""
    return COVID19 in targets


def finding(targets: Sequence[str]) -> str:
    """The first mask that lies within an organ: the one whose areas and shares are measured; "" if there is none."""
    return next((name for name in mask_targets(targets) if TARGETS[name].within), "")


def organ(targets: Sequence[str]) -> str:
    """The mask among `targets` that the finding, or without one any known finding, lies in; "" if there is none."""
    found = finding(targets)
    organs = [TARGETS[found].within] if found else [target.within for target in TARGETS.values()]
    return next((name for name in mask_targets(targets) if name in organs), "")
