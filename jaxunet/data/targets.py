"""What a network learns to predict of an X-ray: masks, and an answer for the whole image."""

from collections.abc import Sequence

COVID19 = "covid19"  # the target that is no mask: one answer for the whole image


def mask_targets(targets: Sequence[str]) -> tuple[str, ...]:
    """Those of `config.dataset.targets` that are masks."""
    return tuple(target for target in targets if target != COVID19)
