"""Compares exported files with their network on validation images: differences, size and speed.

pip install -c constraints.txt '.[onnx,weights]'
python benchmarks/exported.py --source=covidqu.zip --images=932 --formats=stablehlo,onnx,safetensors,safetensors_float16

Speed is the median of `--repeats` passes over all images in batches of `--batch`. The formats take turns. The first row
is the checkpoint itself, run by the `Predictor`.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxunet import api
from jaxunet.export.export import export
from jaxunet.export.formats import FORMATS
from jaxunet.scoring.counts import positive
from jaxunet.scoring.split_pass import load_eval_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=pathlib.Path, help="a run; without it, the network that comes along")
    parser.add_argument("--source", default="", help="the archive, where the run does not know it")
    parser.add_argument("--data_dir", default="", help="folder of the prepared dataset")
    parser.add_argument("--formats", default="stablehlo,onnx,onnx_int8,safetensors,safetensors_float16")
    parser.add_argument("--images", type=int, default=932)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    flags = parser.parse_args()

    changes = {f"dataset.{name}": getattr(flags, name) for name in ("source", "data_dir") if getattr(flags, name)}
    (source,) = api.load_members(flags.workdir, overrides=changes | {"eval.batch_size": flags.batch})
    images = load_eval_split(source.config, "val").image[: flags.images]
    runs = {"checkpoint": lambda x: {"logits": source.outputs(x)["masks"]}}
    sizes = {"checkpoint": 0}
    with tempfile.TemporaryDirectory() as folder:
        for name in flags.formats.split(","):
            path = pathlib.Path(folder) / name
            export([source], format=name, output=path)
            runs[name], sizes[name] = FORMATS[name].read(source, path), path.stat().st_size

    seconds: dict[str, list[float]] = {name: [] for name in runs}
    results = {}
    for _ in range(1 + flags.repeats):  # the first pass compiles
        for name, run in runs.items():
            start = time.perf_counter()
            parts = [run(images[i : i + flags.batch]) for i in range(0, len(images), flags.batch)]
            results[name] = {key: np.concatenate([np.asarray(part[key]) for part in parts]) for key in parts[0]}
            seconds[name].append(time.perf_counter() - start)
    logits = results["checkpoint"]["logits"]
    probability, mask = np.asarray(jax.nn.sigmoid(logits)), np.asarray(positive(jnp.asarray(logits), source.threshold))
    print(
        f"\n{len(images)} images of {images.shape[1]}x{images.shape[2]}, batch {flags.batch}, {mask.size:,} mask pixels"
    )
    print(
        "| | bytes | largest difference of a probability | mask pixels that differ | images/s |\n|---|---|---|---|---|"
    )
    for name in runs:
        rate = len(images) / statistics.median(seconds[name][1:])
        if name == "checkpoint":
            print(f"| {name} | | | | {rate:.0f} |")
            continue
        difference = np.abs(results[name]["probability"] - probability).max()
        differing = int((results[name]["mask"] != mask).sum())
        print(f"| {name} | {sizes[name]:,} | {difference:.1e} | {differing} | {rate:.0f} |")


if __name__ == "__main__":
    main()
