"""`--format=onnx_int8`: convolutions in whole numbers of 8 bits, a quarter of the bytes. Called by formats.py.

ONNX Runtime's static quantisation takes the range of each intermediate value from training images. Whether the network
still marks the same is measured on Val.
"""

import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxunet.core.errors import UserError
from jaxunet.data import prepared
from jaxunet.data.examples import ExampleSource
from jaxunet.export import onnx_graph
from jaxunet.export.computed import from_logits, function_of
from jaxunet.prediction.predictor import Predictor
from jaxunet.scoring.protocols import ratios

_TRAIN, _VAL = 64, 120  # images
_LOST = 0.02  # of Dice; more is refused


def write(source: Predictor, metadata: dict[str, Any], path: pathlib.Path) -> None:
    """Writes the network as ONNX, quantised with 64 training images. UserError if the dataset cannot be used."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    images = np.stack([x["image"] for x in _examples(source, "train", _TRAIN)])
    batches: Iterator[dict[str, np.ndarray]] = iter([{"image": images[i : i + 8]} for i in range(0, len(images), 8)])

    class Images(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(batches, None)

    model = onnx_graph.to_onnx(function_of(source), (source.image_size,) * 2, np.uint8, metadata)
    logging.disable(logging.WARNING)  # it recommends a step that this graph does not need
    try:
        quantize_static(model, path, Images(), per_channel=True, op_types_to_quantize=["Conv", "MatMul"])
    finally:
        logging.disable(logging.NOTSET)


def dice(source: Predictor, compute: Any) -> str:
    """A sentence with the Dice of the file and of `source` on at most 120 images of Val with a finding.

    Raises UserError if the Dice of the file is lower by more than 0.02.
    """
    examples = _examples(source, "val", _VAL)
    images = np.stack([x["image"] for x in examples])
    truth = np.stack([np.unpackbits(x["mask"], axis=1) for x in examples])
    of_file = np.concatenate([np.asarray(compute(images[i : i + 8])["mask"]) for i in range(0, len(images), 8)])
    both = []
    for mask in (of_file, np.asarray(from_logits(source.outputs(images), source)["mask"])):
        tp, fp, fn = (
            (a * b).sum(axis=(1, 2), dtype=int) for a, b in ((mask, truth), (mask, 1 - truth), (1 - mask, truth))
        )
        both.append(ratios(np.stack([tp, fp, fn, 0 * tp], axis=-1))["dice"].mean(axis=0))
    words = [f"{t} {ours:.4f} (float32: {exact:.4f})" for t, ours, exact in zip(source.targets, *both, strict=True)]
    sentence = f"On {len(images)} X-rays of Val, its mean Dice is: {', '.join(words)}."
    if (both[0] < both[1] - _LOST).any():
        raise UserError(f"8 bits are too few for this network. {sentence} Use --format=onnx. Nothing was written.")
    return sentence


def _examples(source: Predictor, split: str, most: int) -> list[dict[str, Any]]:
    """At most so many examples with a finding, evenly spread over the split."""
    dataset = source.config.dataset
    try:
        builder = prepared.open_builder(dataset, dataset.train_config if split == "train" else dataset.eval_config)
    except UserError as error:
        raise UserError(f"--format=onnx_int8 needs images of the network's dataset. {error}") from error
    examples = ExampleSource(builder, split, dataset.targets, image_size=dataset.image_size)
    found = np.flatnonzero(examples.positive) if split == "val" else np.arange(len(examples))
    return [examples[int(found[i])] for i in np.unique(np.linspace(0, len(found) - 1, most).astype(int))]
