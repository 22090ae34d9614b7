"""Scores the masks that --mode=predict writes against true masks at the files' own size.

python benchmarks/full_size.py --config.dataset.source=covidqu.zip
python benchmarks/full_size.py --config.dataset.source=covidqu.zip --workdir=runs/unet --split=test

--mode=evaluate scores a network for 128 x 128 pixels on images and masks of that size. This benchmark first resizes its
logits to 256 x 256, as prediction does.
"""

import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jaxunet.evaluation.analysis import by_lesion_size  # noqa: E402
from jaxunet.evaluation.per_image import COUNTS  # noqa: E402
from jaxunet.prediction import loading
from jaxunet.runs import config_file
from jaxunet.runs.config_file import from_json, to_json  # noqa: E402
from jaxunet.scoring import protocols, split_pass
from jaxunet.scoring.bootstrap import RESAMPLES  # noqa: E402
from jaxunet.scoring.counts import pixel_counts, sigmoid
from jaxunet.scoring.detection import gate
from jaxunet.xrays import letterbox  # noqa: E402

_CONFIG = config_flags.DEFINE_config_file("config", str(pathlib.Path(__file__).parents[1] / "configs/unet.py"))
_WORKDIR = flags.DEFINE_string("workdir", "", "of a run; without it, the network included in jaxunet")
_FLIPS = flags.DEFINE_bool(
    "flips", None, "average over each X-ray and its mirror image; default: as the network was configured"
)
_SPLIT = flags.DEFINE_string("split", "val", "train, val or test")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    where = {f"dataset.{key}": _CONFIG.value.dataset[key] for key in ("source", "data_dir")}
    if _FLIPS.value is not None:
        where["eval.flips"] = _FLIPS.value
    if _WORKDIR.value:
        config = config_file.load(workdir := pathlib.Path(_WORKDIR.value))
        config.update_from_flattened_dict(where)
        network = loading.load(config, workdir, checkpoint="latest")
    else:
        network = loading.load_shipped(where)
    full = from_json(to_json(network.config))
    full.dataset.image_size = 0
    data = split_pass.load_eval_split(full, _SPLIT.value)
    counted: list[jax.Array] = []
    decided: list[np.ndarray] = []
    for start in range(0, len(data.ids), 64):
        images = data.image[start : start + 64]
        squares, places = zip(*(letterbox.fit(image, network.image_size) for image in images), strict=True)
        truth = np.unpackbits(data.arrays["mask"][start : start + 64], axis=2)
        found = network.outputs(np.stack(squares))
        for logits, place, mask in zip(found["masks"], places, truth, strict=True):
            masks = letterbox.restore(logits, place)
            counted.append(pixel_counts(jnp.asarray(masks[None]), jnp.asarray(mask[None]), network.threshold)[0])
        answers = sigmoid(found["covid19"].astype(np.float64)) if "covid19" in found else np.ones(len(images))
        decided.append(network.rule.calls(answers) if network.answers_covid19 else answers > 0)
    counts, called = np.asarray(counted, np.int64), np.concatenate(decided)
    print(f"{len(data.ids)} images of {_SPLIT.value} at {data.image.shape[1]}x{data.image.shape[2]}, {network.origin}")
    for c, target in enumerate(network.targets):
        print(f"\n{target}\n{protocols.table(protocols.summarize(counts[:, c], data.positive, resamples=RESAMPLES))}")
    gated = protocols.summarize(gate(counts[:, 0], called), data.positive, resamples=RESAMPLES)
    print(f"\n{network.targets[0]}, blank where not called COVID-19\n{protocols.table(gated)}")
    covid = counts[data.positive, 0]
    columns = dict(zip(COUNTS, covid.T, strict=True)) | protocols.ratios(covid) | {"hd95": np.zeros(len(covid))}
    dice = [f"{group['dice']['mean']:.3f}" for group in by_lesion_size(columns)["groups"]]
    print(f"\nDice by quarter of lesion size: {' / '.join(dice)}")


if __name__ == "__main__":
    app.run(main)
