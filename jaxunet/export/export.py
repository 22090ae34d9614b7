"""`--mode=export`: a checkpoint as one file that runs, or loads, without its workdir, and a model card beside it.

What is exported is the whole way from the X-ray's pixels to the mask, in float32: `image` uint8 [batch, S, S] ->
`probability` float32 and `mask` uint8 {0, 1}, both [batch, S, S, targets], and, of a network that answers for the whole
image, `covid19` float32 [batch]. The file is read back, run, and compared
with the checkpoint before it gets its name.
"""

import dataclasses
import functools
import importlib.metadata
import json
import pathlib
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax import Array
from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.core.files import write_atomically
from jaxunet.data import batches, drawing
from jaxunet.devices import replicas
from jaxunet.export import model_card
from jaxunet.models import torch_weights
from jaxunet.models.build import NETWORKS, predict_step
from jaxunet.prediction import predictor
from jaxunet.prediction.predictor import Predictor
from jaxunet.runs.config_file import from_json, to_json
from jaxunet.scoring.counts import positive

Images = np.ndarray
Run = Callable[[Images], dict[str, np.ndarray]]  # uint8 [B, S, S] -> what `function_of` gives

# Largest difference of a probability that passes. Accelerators multiply float32 less exactly.
_TOLERANCE = 1e-4
_TOLERANCE_ACCELERATOR = 2e-2
_TOLERANCE_FLOAT16 = 5e-2  # kernels with 11 bits


def export(config: ConfigDict, workdir: pathlib.Path, *, checkpoint: str, format: str, output: pathlib.Path) -> None:
    """Writes `output` and, beside it, `MODEL_CARD.md`; prints how far its values are from the checkpoint's.

    Args:
      config: of the run, as `config.load` gives it, maybe with another threshold.
      workdir: of the run.
      checkpoint: "latest", "best" or a step.
      format: a key of `FORMATS`.
      output: the file to write; one that is there is replaced.

    Raises:
      UserError: if there is no such checkpoint, a library is missing, the network or the mean over flips has no such
        form, or the file computes something else than the checkpoint. `output` is left as it was.
    """
    if output.is_dir() or output.name == model_card.NAME:
        what = "a folder" if output.is_dir() else "the model card"
        raise UserError(f"--output={output} is {what}: name the file to write, such as {output.parent / 'unet.onnx'}.")
    if config.eval.flips and not format.startswith("safetensors"):
        raise UserError(
            f"--format={format} is the network alone: give --config.eval.flips=False, or write safetensors."
        )
    portable = from_json(to_json(config))
    portable.model.dtype, portable.model.layout = "float32", "plain"  # what every device and runtime can compute
    source = predictor.load(portable, workdir, checkpoint=checkpoint)
    write, read = FORMATS[format]
    metadata = describe(source, config)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        draft = pathlib.Path(folder) / output.name
        write(source, metadata, draft)
        tolerance = _TOLERANCE if jax.default_backend() == "cpu" else _TOLERANCE_ACCELERATOR
        tolerance = _TOLERANCE_FLOAT16 if format == "safetensors_float16" else tolerance
        agreement = compare(source, read(source, draft), tolerance=tolerance)
        card = model_card.model_card(source, workdir, metadata, output.name, format, agreement)
        write_atomically(output, draft.read_bytes())  # with the user's permissions, which safetensors does not give
    write_atomically(output.parent / model_card.NAME, card)
    print(
        f"{output}: {format}, {output.stat().st_size:,} bytes, checkpoint {source.step}, {', '.join(source.targets)}, "
        f"{source.image_size}x{source.image_size}. {agreement} {model_card.NAME} is beside it."
    )


def function_of(source: Predictor) -> Callable[[Array], dict[str, Array]]:
    """`image` uint8 [B, S, S] -> `probability` float32, `mask` uint8 {0, 1} [B, S, S, C], and of a network that answers
    it, `covid19` float32 [B]; the weights are inside."""
    variables = jax.device_get(source.variables)

    def function(image: Array) -> dict[str, Array]:
        return _outputs(predict_step(variables, batches.decode_image({"image": image}), model=source.model), source)

    return function


def _outputs(logits: Any, source: Predictor) -> dict[str, Array]:
    """What an exported file computes of the `logits` of a network, see `Predictor.outputs`."""
    probability = {name: jax.nn.sigmoid(x) for name, x in logits.items()}
    mask = positive(logits["masks"], source.threshold).astype(jnp.uint8)
    return {"mask": mask, "probability": probability.pop("masks"), **probability}


def describe(source: Predictor, config: ConfigDict) -> dict[str, Any]:
    """What every artefact says of itself, as JSON values: `config` is the run's, without paths of this machine."""
    config = from_json(to_json(config))
    config.dataset.source = config.dataset.data_dir = ""
    for key in ("weights", "checkpoint"):
        config.init[key] = pathlib.PurePath(config.init[key]).name
    size, classes = source.image_size, len(source.targets)
    return {
        "description": "Segmentation of chest X-rays by jaxunet. Research only, not for clinical use.",
        "targets": list(source.targets),
        "threshold": source.threshold,
        "detection": source.rule.to_dict() | {"from": source.rule.source},
        "image_size": size,
        "input": {"image": f"uint8 [batch, {size}, {size}]: gray, 0 black to 255 white, whole frontal X-ray"},
        "outputs": {
            "probability": f"float32 [batch, {size}, {size}, {classes}], last axis as targets",
            "mask": f"uint8 {{0, 1}} [batch, {size}, {size}, {classes}]: probability above threshold",
            **({"covid19": f"float32 [batch]. {model_card.UNGATED}"} if source.answers_covid19 else {}),
        },
        "training_data": dict(zip(("name", "terms"), model_card.training_data(config), strict=True)),
        "checkpoint_step": source.step,
        "versions": {name: importlib.metadata.version(name) for name in ("jaxunet", "jax", "flax")},
        "config": config.to_dict(),
    }


def to_strings(metadata: dict[str, Any]) -> dict[str, str]:
    """Each value as JSON, for formats whose metadata are strings."""
    return {key: json.dumps(value) for key, value in metadata.items()}


def compare(source: Predictor, run: Run, *, tolerance: float) -> str:
    """A sentence on how `run` and the checkpoint agree on drawn X-rays, in batches of 1 and 3; or a UserError."""
    size = source.image_size
    images = np.stack([drawing.draw_chest_xray(0, i, "test", "COVID-19")[0] for i in range(4)])
    images = images.reshape(4, size, images.shape[1] // size, size, -1).mean(axis=(2, 4)).astype(np.uint8)
    expected = {k: np.asarray(v) for k, v in _outputs(source.outputs(images), source).items()}
    parts = [run(images[:1]), run(images[1:])]
    computed = {k: np.concatenate([np.asarray(part[k]) for part in parts]) for k in expected}
    difference = np.concatenate(
        [np.abs(computed[k] - x).ravel() for k, x in expected.items() if k != "mask"]  # probabilities
    )
    differs = computed["mask"] != expected["mask"]
    on_the_edge = np.abs(expected["probability"] - source.threshold) <= tolerance
    largest = float(difference.max())
    if not largest <= tolerance or (differs & ~on_the_edge).any():
        raise UserError(
            f"The exported file computes other values than the checkpoint: probabilities differ by up to "
            f"{largest:.1e}, {tolerance:.0e} is allowed, and {int(differs.sum())} of {differs.size:,} mask pixels "
            f"differ. Nothing was written."
        )
    return (
        f"On {len(images)} drawn X-rays its probabilities differ from the checkpoint's by at most {largest:.1e} "
        f"(largest probability {expected['probability'].max():.2f}), and {int(differs.sum())} of {differs.size:,} mask "
        f"pixels differ."
    )


# ---- formats: write(source, metadata, path), and read(source, path) -> what the file computes ------------------------


def _write_stablehlo(source: Predictor, metadata: dict[str, Any], path: pathlib.Path) -> None:
    (batch,) = jax.export.symbolic_shape("batch")
    image = jax.ShapeDtypeStruct((batch, source.image_size, source.image_size), jnp.uint8)
    exported = jax.export.export(jax.jit(function_of(source)), platforms=("cpu", "cuda", "tpu"))(image)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", json.dumps(metadata, indent=2) + "\n")
        file.writestr("model.stablehlo", bytes(exported.serialize()))


def _read_stablehlo(source: Predictor, path: pathlib.Path) -> Run:
    with zipfile.ZipFile(path) as file:
        return jax.export.deserialize(bytearray(file.read("model.stablehlo"))).call


def _write_onnx(source: Predictor, metadata: dict[str, Any], path: pathlib.Path) -> None:
    onnx, _ = _import_onnx()
    from jaxunet.export import onnx_graph  # late: it imports onnx

    size = source.image_size
    model = onnx_graph.to_onnx(function_of(source), (size, size), np.uint8)
    onnx.helper.set_model_props(model, to_strings(metadata | {"opset": onnx_graph.OPSET}))
    onnx.save(model, path)
    onnx.checker.check_model(path, full_check=True)


def _read_onnx(source: Predictor, path: pathlib.Path) -> Run:
    session = _import_onnx()[1].InferenceSession(path, providers=["CPUExecutionProvider"])
    names = ["mask", "probability", *(["covid19"] if source.answers_covid19 else [])]
    return lambda images: dict(zip(names, session.run(names, {"image": images}), strict=True))


def _import_onnx() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UserError("--format=onnx needs onnx and onnxruntime: pip install 'jaxunet[onnx]'.") from error
    return onnx, onnxruntime


def _write_safetensors(source: Predictor, metadata: dict[str, Any], path: pathlib.Path, *, half: bool = False) -> None:
    tensors = predictor.flatten(source.variables)
    if half:  # of kernels; vectors are few, and a variance may exceed what float16 holds
        tensors = {name: x.astype(np.float16) if x.ndim > 1 else x for name, x in tensors.items()}
    _save_safetensors(tensors, metadata, path)


def _read_safetensors(source: Predictor, path: pathlib.Path) -> Run:
    return _run_of(predictor.load_safetensors(path))


def _write_torch(source: Predictor, metadata: dict[str, Any], path: pathlib.Path) -> None:
    if source.answers_covid19:
        raise UserError("--format=torch has no place for the target 'covid19': train without, or use another format.")
    name, known = source.config.model.name, [n for n, network in NETWORKS.items() if network.torch_modules]
    if name not in known:
        raise UserError(f"--format=torch is for {' and '.join(known)}: {name!r} has no counterpart in PyTorch.")
    _save_safetensors(torch_weights.to_torch(source.variables, name), metadata, path)


def _read_torch(source: Predictor, path: pathlib.Path) -> Run:
    name, (tensors, _) = source.config.model.name, torch_weights.read_safetensors(path)
    variables = torch_weights.from_torch(tensors, jax.device_get(source.variables), name, source=str(path))
    return _run_of(dataclasses.replace(source, variables=replicas.replicate(variables)))


def _save_safetensors(tensors: dict[str, np.ndarray], metadata: dict[str, Any], path: pathlib.Path) -> None:
    contiguous = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    safetensors.numpy.save_file(contiguous, path, metadata=to_strings(metadata))


def _run_of(loaded: Predictor) -> Run:
    return lambda images: _outputs(loaded.outputs(images), loaded)


FORMATS: dict[str, tuple[Callable[..., None], Callable[..., Run]]] = {
    "stablehlo": (_write_stablehlo, _read_stablehlo),
    "onnx": (_write_onnx, _read_onnx),
    "safetensors": (_write_safetensors, _read_safetensors),
    "safetensors_float16": (functools.partial(_write_safetensors, half=True), _read_safetensors),
    "torch": (_write_torch, _read_torch),
}
