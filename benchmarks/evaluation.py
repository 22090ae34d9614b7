"""CPU time of all threads for each stage of `--mode=evaluate` after the forward pass, on 256x256 images.

    JAX_PLATFORMS=cpu taskset -c 0 python benchmarks/evaluation.py --config.dataset.source=covidqu.zip

No network runs: the logits are the true masks, smoothed and shifted by a few pixels.
"""

import functools
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from absl import app
from ml_collections import config_flags

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from jaxunet.data.targets import mask_targets
from jaxunet.evaluation import analysis, figures, per_image
from jaxunet.scoring import counts as counting
from jaxunet.scoring import split_pass

_ROOT = pathlib.Path(__file__).parents[1]
_CONFIG = config_flags.DEFINE_config_file("config", str(_ROOT / "configs" / "unet.py"))
_total = 0.0


def timed(name: str, stage: Callable[[], Any]) -> Any:
    global _total
    start = time.process_time()
    result = stage()
    seconds = time.process_time() - start
    _total += seconds
    print(f"{name:32s}{seconds:8.2f} s", flush=True)
    return result


def main(_: list[str]) -> None:
    config = _CONFIG.value
    config.dataset.image_size = 0
    targets = mask_targets(config.dataset.targets)
    data = split_pass.load_eval_split(config, "val")
    print(f"{len(data.ids)} images of {data.image.shape[1]}x{data.image.shape[2]}, targets {targets}")
    truth = np.unpackbits(data.arrays["mask"], axis=2)
    soft = scipy.ndimage.gaussian_filter(np.roll(truth, (5, 7), axis=(1, 2)).astype(np.float32), (0, 6, 6, 0))
    logits = 8 * soft - 3 + np.random.default_rng(0).normal(0, 0.3, soft.shape).astype(np.float32)

    count, parts = jax.jit(counting.histogram), [slice(i, i + 32) for i in range(0, len(logits), 32)]

    def histograms() -> np.ndarray:
        return np.concatenate([count(logits[part], truth[part]) for part in parts])

    counts = np.concatenate(
        [counting.pixel_counts(jnp.asarray(logits[part]), jnp.asarray(truth[part]), 0.5) for part in parts]
    )
    histograms()  # compiles
    histogram = timed("histograms (on the device)", histograms)
    measured = per_image.Measured(counts, histogram, np.packbits(logits > 0, axis=2))
    tolerances, threads = config.eval.surface_tolerances, config.input.threads
    table = timed(
        "distances and columns", lambda: per_image.tabulate(measured, data, targets, tolerances, threads=threads)
    )
    result = timed("P1, P2, P3 with intervals", lambda: split_pass.summarize(counts, data, targets, resamples=10_000))
    share_of = "lung" if "lung" in targets else "image"
    for i, target in enumerate(targets):
        block = result if i == 0 else result["targets"][target]
        stage = functools.partial(analysis.analyse, table[target], histogram[:, i], data, share_of=share_of, rule=None)
        block |= timed(f"analysis of {target}", stage)
    timed("per_image.csv", lambda: per_image.to_csv(table, data))
    with tempfile.TemporaryDirectory() as folder:
        path, covid = pathlib.Path(folder) / "analysis.png", data.positive
        timed("analysis.png", lambda: figures.analysis({"threshold": 0.5, **result}, table[targets[0]], covid, path))
    print(f"{'sum':32s}{_total:8.2f} s")


if __name__ == "__main__":
    app.run(main)
