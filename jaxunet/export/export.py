"""`--mode=export`: a checkpoint as one file that runs, or loads, without its workdir, and a model card beside it.

What is exported is the whole way from the X-ray's pixels to the mask, in float32: `image` uint8 [batch, S, S] ->
`probability` float32 and `mask` uint8 {0, 1}, both [batch, S, S, targets], and, of a network that answers for the whole
image, `covid19` float32 [batch]. The file is read back, run, and compared with the checkpoint before it gets its name.
"""

import importlib.metadata
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.core.files import write_atomically
from jaxunet.data import drawing
from jaxunet.export import model_card
from jaxunet.export.computed import from_logits
from jaxunet.export.formats import FORMATS, Run
from jaxunet.prediction import predictor
from jaxunet.prediction.predictor import Predictor
from jaxunet.runs.config_file import from_json, to_json

# Accelerators multiply float32 less exactly: there, probabilities may differ by this much in any format.
_TOLERANCE_ACCELERATOR = 2e-2


def export(
    config: ConfigDict,
    workdir: pathlib.Path,
    *,
    checkpoint: str,
    format: str,
    output: pathlib.Path,
    members: Sequence[tuple[ConfigDict, pathlib.Path]] = (),
) -> None:
    """Writes `output` and, beside it, `MODEL_CARD.md`; prints how far its values are from the checkpoint's.

    Args:
      config: of the run, as `config.load` gives it, maybe with another threshold.
      workdir: of the run.
      checkpoint: "latest", "best" or a step.
      format: a key of `FORMATS`.
      output: the file to write; one that is there is replaced.
      members: config and workdir of several runs, to export their mean probability; `workdir` then has the scores that
        `--mode=evaluate --runs` wrote, or nothing.

    Raises:
      UserError: if there is no such checkpoint, a library is missing, the network or the mean over flips has no such
        form, or the file computes something else than the checkpoint. `output` is left as it was.
    """
    row = FORMATS[format]
    if output.is_dir() or output.name == model_card.NAME:
        what = "a folder" if output.is_dir() else "the model card"
        example = output.parent / f"unet{row.extension}"
        raise UserError(f"--output={output} is {what}: name the file to write, such as {example}.")
    if row.missing():
        raise UserError(f"--format={format} needs {' and '.join(row.libraries)}: pip install 'jaxunet[{row.extra}]'.")
    if config.eval.flips and not row.takes_flips:
        raise UserError(
            f"--format={format} is the network alone: give --config.eval.flips=False, or write safetensors."
        )
    if members and not row.takes_runs:
        able = " or ".join(name for name, other in FORMATS.items() if other.takes_runs)
        raise UserError(f"--format={format} holds one network, and --runs names several: write {able}.")
    runs = list(members) or [(config, workdir)]
    loaded = [predictor.load(_portable(c), run, checkpoint=checkpoint) for c, run in runs]
    source = predictor.ensemble(loaded, [run for _, run in runs]) if members else loaded[0]
    metadata = describe(source, config)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        draft = pathlib.Path(folder) / output.name
        row.write(source, metadata, draft)
        least = 0.0 if jax.default_backend() == "cpu" else _TOLERANCE_ACCELERATOR
        agreement = compare(source, row.read(source, draft), tolerance=max(row.tolerance, least))
        card = model_card.model_card(source, workdir, metadata, output.name, format, agreement, trained_in=runs[0][1])
        write_atomically(output, draft.read_bytes())  # with the user's permissions, which safetensors does not give
    write_atomically(output.parent / model_card.NAME, card)
    print(
        f"{output}: {format}, {output.stat().st_size:,} bytes, checkpoint {source.step}, {', '.join(source.targets)}, "
        f"{source.image_size}x{source.image_size}. {agreement} {model_card.NAME} is beside it."
    )


def _portable(config: ConfigDict) -> ConfigDict:
    """A copy for what every device and runtime can compute."""
    portable = from_json(to_json(config))
    portable.model.dtype, portable.model.layout = "float32", "plain"
    return portable


def describe(source: Predictor, config: ConfigDict) -> dict[str, Any]:
    """What every artefact says of itself, as JSON values: `config` is the run's, without paths of this machine."""
    config = from_json(to_json(config))
    config.dataset.source = config.dataset.data_dir = ""
    for key in ("weights", "run"):
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


def compare(source: Predictor, run: Run, *, tolerance: float) -> str:
    """A sentence on how `run` and the checkpoint agree on drawn X-rays, in batches of 1 and 3; or a UserError."""
    size = source.image_size
    images = np.stack([drawing.draw_chest_xray(0, i, "test", "COVID-19")[0] for i in range(4)])
    images = images.reshape(4, size, images.shape[1] // size, size, -1).mean(axis=(2, 4)).astype(np.uint8)
    expected = {k: np.asarray(v) for k, v in from_logits(source.outputs(images), source).items()}
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
