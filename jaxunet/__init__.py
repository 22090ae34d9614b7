"""jaxunet: segmentation of COVID-19 pneumonia on chest X-rays. The folders are the stages, in the order of the data.

core/        errors in one sentence, files written atomically, PNG pictures
devices/     several processes and several devices: joining, replicas (the only place of pmap), peak rates
xrays/       any X-ray file -> 8-bit gray pixels, fitted to a network
data/        COVID-QU-Ex archive or drawn X-rays -> verified TFDS dataset -> ordered, augmented batches
models/      networks: image -> logits; weights in PyTorch's naming
scoring/     losses; integer counts -> protocols P1 to P3 with intervals; COVID-19 or not; one pass over a split
runs/        settings and their checks, config.json, checkpoints, metrics.jsonl
training/    the loop, the step, the optimizer, where weights start from
prediction/  a checkpoint as a function; masks, measures, tables and pages for X-rays
evaluation/  exact scores of a checkpoint: tables, pictures, report; several systems compared
export/      a checkpoint as one file for elsewhere, with its model card
preflight/   what a config will need on accelerators, by compiling it ahead of time
api.py       load, train and evaluate, for notebooks: the names below, which load nothing until they are used
commands.py  one function per mode; command_line.py has their flags, for `jaxunet` and `launch.py`
configs/     in a clone beside this folder: the config files, importable as `jaxunet.configs`

A package imports only from those above it; tests/test_house.py holds that.
"""

import pathlib
from typing import TYPE_CHECKING, Any

_HERE = pathlib.Path(__file__).parent
_CLONE = None if (_HERE / "configs").is_dir() else _HERE.parent  # installed, configs/ lies in this folder
if _CLONE:
    __path__.append(str(_CLONE))  # so that `from jaxunet.configs import unet` works in a clone, too

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
    """As pyproject.toml has it."""
    import importlib.metadata
    import tomllib

    if _CLONE:  # what is installed may be of another version
        return str(tomllib.loads((_CLONE / "pyproject.toml").read_text())["project"]["version"])
    return importlib.metadata.version("jaxunet")
