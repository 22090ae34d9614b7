"""Initial weights of a new run: from another run, a file of PyTorch weights, ImageNet, or random numbers."""

import dataclasses
import hashlib
import importlib.metadata
import pathlib
import re
from typing import Any

import flax
import jax
import numpy as np
from ml_collections import ConfigDict

from jaxunet.core.errors import UserError, WeightsUnavailable
from jaxunet.core.files import local_path, locate
from jaxunet.models import efficientnet_unet, torch_weights
from jaxunet.models.build import NETWORKS
from jaxunet.runs import config_file
from jaxunet.runs.checkpoint import Checkpoints
from jaxunet.training.state import TrainState

_HUB_FILE = "model.safetensors"


def initial_state(config: ConfigDict, state: TrainState) -> tuple[TrainState, str]:
    """The state that a new run starts with, and a few words on its origin: the weights that `config.init` names, or
    those of `state`, freshly initialised. Raises UserError if the named weights do not fit the network."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    if config.init.run:
        variables, words = _from_run(locate(config.init.run), variables)
    elif config.init.weights:
        variables, words = _from_weights(config, variables)
    else:
        return state, "from scratch"
    state = dataclasses.replace(state, params=variables["params"], batch_stats=variables["batch_stats"])
    if state.ema_params is not None:  # copies: donating the state would delete aliased arrays twice
        copies = jax.tree.map(np.array, variables)
        state = dataclasses.replace(state, ema_params=copies["params"], ema_batch_stats=copies["batch_stats"])
    return state, words


def _from_run(workdir: pathlib.Path, variables: Any) -> tuple[Any, str]:
    """The other run's weights wherever path and shape agree: the encoder, and the decoder and head if they fit."""
    run_config = config_file.load(workdir)
    with Checkpoints(workdir, run_config.checkpoint) as checkpoints:
        step = checkpoints.resolve("latest")
        theirs = checkpoints.restore_weights(step)
    ours, theirs = (flax.traverse_util.flatten_dict(v) for v in (variables, theirs))
    fitting = {
        path: np.asarray(theirs[path]) for path, x in ours.items() if path in theirs and theirs[path].shape == x.shape
    }
    if not any("encoder" in path for path in fitting):
        raise UserError(f"config.init.run={workdir} is a run of another network: nothing of its encoder fits.")
    words = f"from step {step} of {workdir} ({len(fitting)} of {len(ours)} arrays)"
    return flax.traverse_util.unflatten_dict(ours | fitting), words


def weights_file(config: ConfigDict) -> pathlib.Path:
    """The file that `config.init.weights` names; "imagenet" is that of a package, or is downloaded if needed. Raises
    WeightsUnavailable if there is none."""
    if config.init.weights == "imagenet":
        imagenet = NETWORKS[config.model.name].imagenet
        assert imagenet  # checks.py sees to it
        source = imagenet.source(config.model)
        return _download(source) if "/" in source else package_file(source)
    path = local_path(config.init.weights)
    if not path.is_file():
        raise WeightsUnavailable(f"config.init.weights={path} does not exist: give a .safetensors or .pth file.")
    return path


def _from_weights(config: ConfigDict, variables: Any) -> tuple[Any, str]:
    source, network = config.init.weights, NETWORKS[config.model.name]
    tensors = torch_weights.read_tensors(weights_file(config))
    if config.model.name == "efficientnet_unet":
        names = efficientnet_unet.timm_names(list(tensors), config.model.lite)
        tensors = {names[name]: value for name, value in tensors.items()}
    encoder_only = bool(network.imagenet) and not any(n.startswith("decoder.") for n in tensors)
    variables = torch_weights.from_torch(
        tensors, variables, config.model.name, source=source, encoder_only=encoder_only
    )
    if network.imagenet and encoder_only:
        model = config.model
        variables = torch_weights.fold_rgb_stem(variables, network.imagenet, mean=model.input_mean, std=model.input_std)
    return variables, f"{'encoder ' if encoder_only else ''}from {source}"


def package_file(package: str) -> pathlib.Path:
    """The one .pth file of an installed package."""
    try:
        found = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise WeightsUnavailable(
            f"config.init.weights='imagenet' needs the package {package}: pip install {package}==0.1.0, or give its "
            f".pth file with --config.init.weights=FILE.pth."
        ) from error
    files = [pathlib.Path(str(file.locate())) for file in found if file.suffix == ".pth"]
    if len(files) != 1 or not files[0].is_file():
        raise WeightsUnavailable(f"The installed package {package} has lost its .pth file: install it again.")
    return files[0]


def _download(repository: str) -> pathlib.Path:
    """Downloads the file once into the hub's cache. Its SHA-256 must be the one that the hub names it by."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise WeightsUnavailable(
            "config.init.weights='imagenet' needs the Hugging Face client: pip install 'jaxunet[weights]'."
        ) from error
    try:
        path = pathlib.Path(huggingface_hub.hf_hub_download(repository, _HUB_FILE))
    except Exception as error:  # its HTTP client raises many types when offline
        raise WeightsUnavailable(
            f"{_HUB_FILE} of huggingface.co/{repository} could not be fetched: download it on another machine, and "
            f"give its path with --config.init.weights=FILE.safetensors."
        ) from error
    content = path.resolve()  # in the cache, a large file's name is its SHA-256
    if re.fullmatch(r"[0-9a-f]{64}", content.name):
        with content.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != content.name:
            raise UserError(
                f"{content} is damaged: its SHA-256 is {digest}. Delete it: the next start fetches it again."
            )
    return path
