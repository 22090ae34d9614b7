"""PyTorch weights into variables of our networks, and back. Every leaf is filled exactly once, or an error says why
not.

`torch_name` maps our parameter paths to PyTorch's names, for export and import: they cannot disagree. Files: see
torch_files.py.
"""

import pathlib
import re
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np
import safetensors

from jaxunet.core.errors import UserError, WeightsUnavailable
from jaxunet.data.targets import COVID19
from jaxunet.models import torch_files
from jaxunet.models.build import NETWORKS, ImageNet

Path = tuple[str, ...]
Tensors = dict[str, np.ndarray]

_NOT_ENCODER = re.compile(r"(fc|classifier|conv_head|bn2|decoder|segmentation)\b|segmentation_head")  # heads
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def torch_name(model_name: str, path: Path) -> str:
    """Name in a PyTorch state dict of the leaf at `path`, such as ("encoder", "layer1_0", "bn1", "scale").

    `model_name` is a network with `torch_modules` in `build.NETWORKS`.
    """
    *modules, leaf = path
    dotted = [re.sub(r"_(?=\d+$)", ".", module) for module in modules]  # layer1_0 -> layer1.0
    torch_modules = NETWORKS[model_name].torch_modules
    if torch_modules is None:
        raise ValueError(f"{model_name} has no counterpart in PyTorch")
    return ".".join([*torch_modules(dotted), _LEAVES[leaf]])


def _transposed(path: Path, value: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """A kernel with its `axes` in that order. HWIO is OIHW in PyTorch, IOHW for a transposed convolution, up<i>."""
    if path[-1] != "kernel" or value.ndim != 4:
        return value
    return value.transpose((2, 3, 0, 1) if re.fullmatch(r"up\d", path[-2]) else axes)


def to_torch(variables: Any, model_name: str) -> Tensors:
    """Variables -> PyTorch state dict without `num_batches_tracked`. Kernels are OIHW, or IOHW if transposed."""
    tensors = {}
    for collection in ("params", "batch_stats"):
        for path, value in flax.traverse_util.flatten_dict(variables.get(collection, {})).items():
            tensors[torch_name(model_name, path)] = _transposed(path, np.asarray(value), (3, 2, 0, 1))
    return tensors


def from_torch(tensors: Tensors, variables: Any, model_name: str, *, source: str, encoder_only: bool = False) -> Any:
    """Replaces every leaf of `variables`, arrays or shapes, by the tensor of its name; `source` names the tensors'
    origin.

    With `encoder_only`, it fills only the encoder, with or without the prefix "encoder.", and the kernel of an RGB stem
    fits a network for one channel. Raises UserError for a leaf without tensor, a tensor without leaf, a different
    shape, or impossible values.
    """
    left = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    if encoder_only:
        left = {n.removeprefix("encoder."): v for n, v in left.items() if not _NOT_ENCODER.match(n)}
    network, result = NETWORKS[model_name], {}
    for collection in ("params", "batch_stats"):
        leaves = flax.traverse_util.flatten_dict(variables.get(collection, {}))
        for path, old in leaves.items():
            # The answer for the whole image is ours alone: PyTorch files have no tensors for it.
            if path[0] == COVID19 or (encoder_only and path[0] != "encoder"):
                continue
            name = torch_name(model_name, path).removeprefix("encoder." if encoder_only else "")
            if name not in left:
                raise UserError(f"{source} has no tensor {name!r} for {'/'.join(path)}: it belongs to another network.")
            new = _transposed(path, left.pop(name), (2, 3, 1, 0))
            rgb = (*old.shape[:2], 3, *old.shape[3:])
            stem = network.imagenet and ("encoder", network.imagenet.stem, "kernel")
            if path == stem and encoder_only and old.shape[2] == 1 and new.shape == rgb:
                pass  # RGB for gray: `fold_rgb_stem` sums it
            elif new.shape != old.shape:
                raise UserError(f"{source}: {name!r} gives {'/'.join(path)} the shape {new.shape}, not {old.shape}.")
            leaves[path] = _usable(new, path, f"{source}: {name!r}")
        result[collection] = flax.traverse_util.unflatten_dict(leaves)
    if left:
        names = ", ".join(sorted(left)[:3])
        raise UserError(
            f"{source} has {len(left)} tensors that the network does not use ({names}): it belongs to another network."
        )
    return result


def _usable(value: np.ndarray, path: Path, name: str) -> np.ndarray:
    """`value` as float32; raises UserError for values that would make every prediction NaN."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise UserError(f"{name} holds {value.dtype}, not floating-point numbers.")
    with np.errstate(over="ignore"):
        value = value.astype(np.float32)
    if not np.isfinite(value).all():
        raise UserError(f"{name} holds numbers that are not finite: the file is damaged, or its training failed.")
    if path[-1] == "var" and (value < 0).any():
        raise UserError(f"{name} holds variances below 0: the file is damaged.")
    return value


def fold_rgb_stem(variables: Any, imagenet: ImageNet, *, mean: float, std: float) -> Any:
    """Turns a stem for ImageNet-normalised RGB into one for gray images normalised as (x - mean) / std.

    A gray image x has x_c = (x - mean_c) / std_c in each RGB channel c. That is affine in g = (x - mean) / std: the
    kernel is summed over RGB with weights std / std_c, and the constants move into the running mean of the next norm.
    The result is exact except at the border: zero padding now stands for `mean`, not for each channel's own mean.
    """
    kernel = variables["params"]["encoder"][imagenet.stem]["kernel"]
    if kernel.shape[2] != 3:
        return variables
    rgb_mean, rgb_std = np.array(imagenet.mean, np.float32), np.array(imagenet.std, np.float32)
    constant = np.einsum("hwio,i->o", kernel, (mean - rgb_mean) / rgb_std)
    flat = flax.traverse_util.flatten_dict(variables)
    flat["params", "encoder", imagenet.stem, "kernel"] = np.einsum("hwio,i->hwo", kernel, std / rgb_std)[:, :, None]
    flat["batch_stats", "encoder", "bn1", "mean"] = variables["batch_stats"]["encoder"]["bn1"]["mean"] - constant
    return flax.traverse_util.unflatten_dict(flat)


# ---- files -----------------------------------------------------------------------------------------------------------


def read_tensors(path: pathlib.Path) -> Tensors:
    """Name -> array of a `.safetensors`, `.pth`, `.pt` or `.bin` file, without wrappers and DDP's `module.`.

    Raises UserError if the file is missing, damaged, of another kind, or holds other things than tensors.
    """
    if not path.is_file():
        raise WeightsUnavailable(f"{path} does not exist: give a .safetensors or .pth file of weights.")
    tensors = read_safetensors(path)[0] if path.suffix == ".safetensors" else _read_torch(path)
    result = {name.removeprefix("module."): value for name, value in tensors.items()}
    if len(result) != len(tensors):
        raise UserError(f"{path} holds the same tensor with and without the prefix 'module.'.")
    return result


def read_safetensors(path: pathlib.Path) -> tuple[Tensors, dict[str, str]]:
    """(name -> array, metadata) of a safetensors file with any suffix. Raises as `read_tensors` does."""
    if not path.is_file():
        raise WeightsUnavailable(f"{path} does not exist: give a .safetensors file of weights.")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # SafetensorError, and NumPy's errors for unknown types and shapes
        raise UserError(f"{path} is not a complete safetensors file ({error}).") from error


def _read_torch(path: pathlib.Path) -> Tensors:
    try:
        loaded = torch_files.load(path)
    except Exception as error:  # a damaged or hostile file makes the unpickler raise any type
        reason = str(error).split("\n", 1)[0][:200]
        raise UserError(f"{path} cannot be loaded as tensors alone ({reason}): use a file of weights only.") from error
    for wrapper in ("model", "state_dict", "model_state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds a {type(loaded).__name__}, not a state dict of a network.")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise UserError(f"{path} holds {name!r}, which is not a tensor: this is not a state dict of a network.")
    return {name: value.astype(np.float32) for name, value in loaded.items()}
