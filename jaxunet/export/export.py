"""`--mode=export`: writes a checkpoint as one file that needs no workdir, and a model card beside it.

The file computes everything from pixels to mask in float32, see `computed.function_of`. Before it gets its name, it is
read back, run and compared with the checkpoint.
"""

import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import flax
import jax
import numpy as np
from ml_collections import ConfigDict

import jaxunet
from jaxunet.core.errors import UserError
from jaxunet.core.files import locate, write_atomically
from jaxunet.data import drawing, folder_spec
from jaxunet.export import model_card
from jaxunet.export.computed import from_logits
from jaxunet.export.formats import FORMATS, Compute
from jaxunet.models.averaging import portable_mean_logits
from jaxunet.prediction import loading
from jaxunet.prediction.predictor import Predictor
from jaxunet.runs.config_file import from_json, to_json
from jaxunet.xrays import letterbox

_LETTERBOX = (  # what xrays/letterbox.py does, for people who write it again
    "The X-ray has height x width gray pixels; dense is white; colours become their luminance (ITU-R 601). rows = "
    "max(1, round(height * image_size / max(height, width))); columns alike. Scale it to rows x columns: the mean of "
    "k x k pixels where both sides shrink by whole factors, else a triangle filter as wide as the scale. Put it into a "
    "black square, at row (image_size - rows) // 2 and column (image_size - columns) // 2. Back: take log(p / (1 - p)) "
    "of each mask there, scale it bilinearly to height x width, and mark what is above "
    "log(threshold / (1 - threshold))."
)
# Accelerators multiply float32 less exactly. There, probabilities may differ by this much in any format.
_TOLERANCE_ACCELERATOR = 2e-2


def export(
    members: Sequence[Predictor],
    *,
    format: str,
    output: pathlib.Path,
    scores: pathlib.Path | None = None,
    runtime: pathlib.Path | None = None,
) -> None:
    """Writes `output` and `MODEL_CARD.md` beside it, and prints how far its values are from those of the checkpoint.

    Args:
      members: the network, or several, to export their mean probability; from `api.load_members`.
      format: a key of `FORMATS`.
      output: the file to write or replace.
      scores: of several, the folder with the scores from `--mode=evaluate --runs`. A run has its own scores.
      runtime: for formats that run in a browser, the folder of the npm package onnxruntime-web.

    Raises UserError if a library is missing, the format cannot hold the network, or the file does not compute the same
    as the checkpoint. `output` then stays as it was.
    """
    config = members[0].config
    row = FORMATS[format]
    if output.is_dir() or output.name == model_card.NAME:
        what, example = "a folder" if output.is_dir() else "the model card", output.parent / f"unet{row.extension}"
        raise UserError(f"--output={output} is {what}: name the file to write, such as {example}.")
    if row.missing():
        raise UserError(f"--format={format} needs {' and '.join(row.libraries)}: pip install 'jaxunet[{row.extra}]'.")
    if config.eval.flips and not row.takes_flips:
        what = "cannot average an X-ray and its mirror image"
        raise UserError(f"--format={format} {what}: add --config.eval.flips=False.")
    if len(members) > 1 and not row.takes_runs:
        able = " or ".join(name for name, other in FORMATS.items() if other.takes_runs)
        raise UserError(f"--format={format} holds one network, but --runs names several: use --format={able}.")
    places = [locate(p.origin) for p in members]
    loaded = [loading.portable(p) for p in members]
    source = loading.ensemble(loaded, places, portable_mean_logits) if len(members) > 1 else loaded[0]
    metadata = describe(source, config)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        draft = pathlib.Path(folder) / output.name
        row.write(source, metadata, draft, **({"runtime": runtime} if row.takes_runtime else {}))
        least = 0.0 if jax.default_backend() == "cpu" else _TOLERANCE_ACCELERATOR
        compute = row.read(source, draft)
        agreement = compare(source, compute, tolerance=max(row.tolerance, least))
        agreement += f" {row.score(source, compute)}" if row.score else ""
        card = model_card.model_card(source, places, scores, metadata, output.name, format, agreement)
        write_atomically(output, draft.read_bytes())  # a new file: safetensors ignores the user's permissions
    write_atomically(output.parent / model_card.NAME, card)
    what = f"checkpoint {source.step}, {', '.join(source.targets)}, {source.image_size}x{source.image_size}"
    print(f"Written to {output}: {format}, {output.stat().st_size:,} bytes, {what}. {agreement}")


def describe(source: Predictor, config: ConfigDict) -> dict[str, Any]:
    """The metadata of every exported file, as JSON values. `config` is that of the run without local paths."""
    config = from_json(to_json(config))
    config.dataset.source = config.dataset.data_dir = ""
    config.dataset.spec = folder_spec.without_names(config.dataset.spec)
    for key in ("weights", "run"):
        config.init[key] = pathlib.PurePath(config.init[key]).name
    size, masks = source.image_size, len(source.targets)
    return {
        "description": "Segmentation of chest X-rays by jaxunet. Research only, not for clinical use.",
        "targets": list(source.targets),
        "threshold": source.threshold,
        "detection": source.rule.to_dict() | {"from": source.rule.source, "words": str(source.rule)},
        "blank_unless_detected": [t for t, record in source.records.items() if source.gate and record.learnt_from],
        "letterbox": _LETTERBOX,
        "image_size": size,
        "input": {"image": f"uint8 [batch, {size}, {size}]: gray, 0 black to 255 white, whole frontal X-ray"},
        "outputs": {
            "probability": f"float32 [batch, {size}, {size}, {masks}], last axis as targets",
            "mask": f"uint8 {{0, 1}} [batch, {size}, {size}, {masks}]: probability above threshold",
            **({"covid19": f"float32 [batch]. {model_card.UNGATED}"} if source.answers_covid19 else {}),
        },
        "training_data": dict(zip(("name", "terms"), model_card.training_data(config), strict=True)),
        "checkpoint_step": source.step,
        "versions": {module.__name__: module.__version__ for module in (jaxunet, jax, flax)},
        "config": config.to_dict(),
    }


def compare(source: Predictor, compute: Compute, *, tolerance: float) -> str:
    """A sentence on how well `compute` agrees with the checkpoint on drawn X-rays, in batches of 1 and 3.

    Raises UserError if a probability differs by more than `tolerance`, or a mask by more than that explains.
    """
    size = source.image_size
    drawn = [drawing.draw_chest_xray(0, i, "test", "COVID-19")[0] for i in range(4)]
    images = np.stack([letterbox.fit(image, size)[0] for image in drawn])
    expected = {k: np.asarray(v) for k, v in from_logits(source.outputs(images), source).items()}
    parts = [compute(images[:1]), compute(images[1:])]
    computed = {k: np.concatenate([np.asarray(part[k]) for part in parts]) for k in expected}
    largest = float(np.max([np.abs(computed[k] - x).max() for k, x in expected.items() if k != "mask"]))
    differs = computed["mask"] != expected["mask"]
    on_the_edge = np.abs(expected["probability"] - source.threshold) <= tolerance
    pixels = f"{int(differs.sum())} of {differs.size:,} mask pixels differ."
    if not largest <= tolerance or (differs & ~on_the_edge).any():
        raise UserError(
            f"The exported file computes other values than the checkpoint: probabilities differ by up to {largest:.1e} "
            f"(allowed: {tolerance:.0e}) and {pixels} Nothing was written."
        )
    return (
        f"On {len(images)} drawn X-rays, its probabilities differ from those of the checkpoint by at most "
        f"{largest:.1e} (largest probability: {expected['probability'].max():.2f}), and {pixels}"
    )
