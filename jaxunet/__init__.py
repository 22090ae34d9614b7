"""jaxunet: segmentation of COVID-19 pneumonia on chest X-rays. The folders are the stages, in the order of the data.

core/        errors as one sentence, atomic files and locks, PNG pictures
devices/     several processes, several devices (replicas.py is the only file with pmap), peak rates
xrays/       X-ray file of any kind -> 8-bit gray pixels, scaled to a network
data/        COVID-QU-Ex archive or drawn X-rays -> verified TFDS dataset -> ordered, augmented batches;
             what is known of each dataset (specs.py) and of each mask: name, colour, code (targets.py)
models/      networks: image -> logits; weights named as in PyTorch
scoring/     losses; integer counts -> ratios (with the empty-mask rule) and protocols P1 to P3 in protocols.py;
             intervals; the detection rule; one pass over a split
runs/        each setting (settings.py), combinations of them (checks.py), config.json, checkpoints, metrics.jsonl
training/    the loop, the step, the optimizer, initial weights
prediction/  trained networks on X-rays: masks, measures, tables, the web page
evaluation/  exact scores of a checkpoint, also on other datasets and changed images: tables, report; comparison
export/      a checkpoint as one file for other programs, with its model card
preflight/   what a config will need on accelerators, from compiling it ahead of time
api.py       load, train and evaluate in Python; the names below, imported at first use
commands.py  one function per mode; command_line.py has the flags of `jaxunet` and `launch.py`
configs/     the config files, importable as `jaxunet.configs`; in a clone they lie beside this folder

A package imports only from those above it. tests/test_house.py checks this.
"""

import pathlib
from typing import TYPE_CHECKING, Any

_HERE = pathlib.Path(__file__).parent
_CLONE = None if (_HERE / "configs").is_dir() else _HERE.parent  # in an installed package, configs/ is in this folder
if _CLONE:
    __path__.append(str(_CLONE))  # so that `from jaxunet.configs import unet` also works in a clone

if TYPE_CHECKING:
    from jaxunet.api import Prediction, UserError, Xray, evaluate, load, read_xray, train

    __version__: str

__all__ = ["Prediction", "UserError", "Xray", "__version__", "evaluate", "load", "read_xray", "train"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in __all__:
        from jaxunet import api

        return getattr(api, name)
    raise AttributeError(f"module 'jaxunet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _version() -> str:
    """The version in pyproject.toml."""
    import importlib.metadata
    import tomllib

    if _CLONE:  # an installed jaxunet can have another version
        return str(tomllib.loads((_CLONE / "pyproject.toml").read_text())["project"]["version"])
    return importlib.metadata.version("jaxunet")
