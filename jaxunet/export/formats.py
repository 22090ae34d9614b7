"""Export formats: one row of `FORMATS` each, with the functions that write a file and read it back.

A new format needs a row here, a page in how_to_run/, and a file for its code if that is long. JAX is imported inside
the functions, because command_line.py reads the names and `--help` shall answer at once.
"""

import dataclasses
import functools
import importlib
import importlib.util
import json
import pathlib
import string
import zipfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxunet.core.errors import UserError

if TYPE_CHECKING:
    from jaxunet.prediction.predictor import Predictor

Compute = Callable[[np.ndarray], dict[str, Any]]  # uint8 [B, S, S] -> outputs as of `computed.function_of`
Metadata = dict[str, Any]  # see `export.describe`

PAGES = pathlib.Path(__file__).with_name("how_to_run")


@dataclasses.dataclass(frozen=True)
class Format:
    """A row of `FORMATS`."""

    # (network, metadata, path) -> None; with `takes_runtime` also `runtime`, the folder of ONNX Runtime Web
    write: Callable[..., None]
    # (network, path) -> the function that the file computes. The network is the one that was written.
    read: Callable[["Predictor", pathlib.Path], Compute]
    page: str  # name of the page in how_to_run/, which becomes the section "How to run it" of the model card
    extension: str  # usual end of the file name
    tolerance: float = 1e-4  # largest difference from a probability of the checkpoint that is allowed on CPUs
    # (network, the function of the file) -> a sentence with scores of both, where `tolerance` says little
    score: Callable[["Predictor", Compute], str] | None = None
    takes_flips: bool = True  # whether the reader of the file can average an X-ray and its mirror image
    takes_runs: bool = False  # whether the file can hold the mean of several networks
    takes_runtime: bool = False
    # libraries, extra: other libraries that it needs, and the extra of jaxunet that installs them
    libraries: tuple[str, ...] = ()
    extra: str = ""

    def missing(self) -> list[str]:
        """The `libraries` that are not installed."""
        return [name for name in self.libraries if importlib.util.find_spec(name) is None]

    def how_to_run(self, **words: object) -> str:
        """The page, in Markdown, with `file`, `format`, `size` and `agreement` filled in."""
        page = (PAGES / f"{self.page}.md").read_text().rstrip()
        return string.Template(page).substitute(words)


def _write_stablehlo(source: "Predictor", metadata: Metadata, path: pathlib.Path) -> None:
    import jax
    import jax.export

    from jaxunet.export.computed import function_of

    (batch,) = jax.export.symbolic_shape("batch")
    image = jax.ShapeDtypeStruct((batch, source.image_size, source.image_size), np.uint8)
    exported = jax.export.export(jax.jit(function_of(source)), platforms=("cpu", "cuda", "tpu"))(image)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", json.dumps(metadata, indent=2) + "\n")
        file.writestr("model.stablehlo", bytes(exported.serialize()))


def _read_stablehlo(source: "Predictor", path: pathlib.Path) -> Compute:
    import jax.export

    with zipfile.ZipFile(path) as file:
        return jax.export.deserialize(bytearray(file.read("model.stablehlo"))).call


def _write_onnx(source: "Predictor", metadata: Metadata, path: pathlib.Path) -> None:
    import onnx

    from jaxunet.export import onnx_graph
    from jaxunet.export.computed import function_of

    onnx.save(onnx_graph.to_onnx(function_of(source), (source.image_size,) * 2, np.uint8, metadata), path)


def _read_onnx(source: "Predictor", path: pathlib.Path) -> Compute:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"image": images}), strict=True))


def _late(module: str, function: str) -> Callable[..., Any]:
    """A function of a module in this folder, imported at its first call."""
    return lambda *args, **more: getattr(importlib.import_module(f"jaxunet.export.{module}"), function)(*args, **more)


def _write_safetensors(source: "Predictor", metadata: Metadata, path: pathlib.Path, *, half: bool = False) -> None:
    from jaxunet.prediction import loading

    tensors = loading.flatten(source.variables)
    if half:  # kernels only: vectors are few, and a variance can exceed the range of float16
        tensors = {name: x.astype(np.float16) if x.ndim > 1 else x for name, x in tensors.items()}
    save_safetensors(tensors, metadata, path)


def _read_safetensors(source: "Predictor", path: pathlib.Path) -> Compute:
    from jaxunet.prediction import loading

    return _compute_of(loading.load_safetensors(path))


def _write_torch(source: "Predictor", metadata: Metadata, path: pathlib.Path) -> None:
    from jaxunet.models import torch_weights
    from jaxunet.models.build import NETWORKS

    if source.answers_covid19:
        raise UserError("--format=torch cannot hold the target 'covid19': train without it, or use another format.")
    name, known = source.config.model.name, [n for n, net in NETWORKS.items() if net.torch_modules and net.torch_whole]
    if name not in known:
        raise UserError(f"--format=torch is for {' and '.join(known)}: {name!r} has no counterpart in PyTorch.")
    save_safetensors(torch_weights.to_torch(source.variables, name), metadata, path)


def _read_torch(source: "Predictor", path: pathlib.Path) -> Compute:
    import jax

    from jaxunet.devices import replicas
    from jaxunet.models import torch_weights

    name, (tensors, _) = source.config.model.name, torch_weights.read_safetensors(path)
    variables = torch_weights.from_torch(tensors, jax.device_get(source.variables), name, source=str(path))
    return _compute_of(dataclasses.replace(source, variables=replicas.replicate(variables)))


def save_safetensors(tensors: dict[str, np.ndarray], metadata: Metadata, path: pathlib.Path) -> None:
    import safetensors.numpy

    contiguous = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    as_json = {key: json.dumps(value) for key, value in metadata.items()}  # they must be strings
    safetensors.numpy.save_file(contiguous, path, metadata=as_json)


def _compute_of(loaded: "Predictor") -> Compute:
    from jaxunet.export.computed import from_logits

    return lambda images: from_logits(loaded.outputs(images), loaded)


_ONNX: dict[str, Any] = {"libraries": ("onnx", "onnxruntime"), "extra": "onnx"}
FORMATS = {
    "stablehlo": Format(_write_stablehlo, _read_stablehlo, "stablehlo", ".zip", takes_runs=True),
    "onnx": Format(_write_onnx, _read_onnx, "onnx", ".onnx", takes_runs=True, **_ONNX),
    "onnx_int8": Format(
        *(_late("int8", "write"), _read_onnx, "onnx", ".onnx"),
        tolerance=1.0,  # a pixel may change sides; the Dice on Val decides
        takes_runs=True,
        score=_late("int8", "dice"),
        **_ONNX,
    ),
    "safetensors": Format(_write_safetensors, _read_safetensors, "safetensors", ".safetensors"),
    "safetensors_float16": Format(
        functools.partial(_write_safetensors, half=True),
        _read_safetensors,
        "safetensors",
        ".safetensors",
        tolerance=5e-2,  # kernels with 11 bits
    ),
    "html": Format(
        *(_late("offline_page", "write"), _late("offline_page", "read"), "html", ".html"),
        takes_runs=True,
        takes_runtime=True,
        **_ONNX,
    ),
    "torch": Format(_write_torch, _read_torch, "torch", ".safetensors", takes_flips=False),
}
