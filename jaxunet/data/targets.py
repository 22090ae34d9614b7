"""What a network learns to predict of an X-ray: the masks and answers that `config.dataset.targets` may name.

The rest of the program reads the records of a run's dataset, see `specs.masks_of`. `TARGETS` has those of COVID-QU-Ex
and the drawn X-rays; a folder of one's own has others: see docs/add_a_target.md.
"""

import dataclasses
from collections.abc import Iterable, Mapping

Code = tuple[str, str, str]  # of DICOM: value, scheme, meaning
STRUCTURE = ("91723000", "SCT", "Anatomical Structure")
ABNORMAL = ("49755003", "SCT", "Morphologically Abnormal Structure")


@dataclasses.dataclass(frozen=True)
class Target:
    """A mask, or an answer for the whole image."""

    name: str  # in configs, file names and tables. The dataset stores a mask as the feature `<name>_mask`.
    colour: tuple[int, int, int] = (240, 200, 60)  # of the outline, RGB in [0, 255]
    category: Code = STRUCTURE  # category, code: its DICOM codes in a Segmentation
    code: Code = STRUCTURE
    # the mask of the organ around a finding. Areas, severity and detection are computed for the finding.
    within: str = ""
    # an image target, such as "covid19". If both are learnt, the loss of this mask uses only images with the answer
    # yes, and predictions blank the mask if the network answers no.
    learnt_from: str = ""


Records = Mapping[str, Target]  # name -> record, in the order of `config.dataset.targets`
COVID19 = "covid19"  # also the key in the network's outputs and parameters
TARGETS = {
    target.name: target
    for target in (
        Target(
            "infection",
            colour=(240, 70, 60),
            category=ABNORMAL,
            code=("233604007", "SCT", "Pneumonia"),
            within="lung",
            learnt_from=COVID19,
        ),
        Target("lung", colour=(70, 160, 240), code=("39607008", "SCT", "Lung")),
        Target(COVID19),
    )
}


def mask_targets(targets: Iterable[str]) -> tuple[str, ...]:
    """The masks in `config.dataset.targets`: all but the answer for the whole image."""
    return tuple(name for name in targets if name != COVID19)


def answers_covid19(targets: Iterable[str]) -> bool:
    """Whether `config.dataset.targets` has the answer for the whole image."""
    return COVID19 in targets


def finding(targets: Records) -> str:
    """The first mask that lies within an organ. Its areas and shares are measured. "" if there is none."""
    return next((name for name, target in targets.items() if target.within), "")


def organ(targets: Records) -> str:
    """The mask in `targets` of the organ around the finding, or without a finding around any known one; "" if none."""
    found = finding(targets)
    organs = [targets[found].within] if found else [target.within for target in TARGETS.values()]
    return next((name for name in targets if name in organs), "")
