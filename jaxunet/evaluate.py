"""Exact evaluation: every image of a split once, counts from the device, protocols P1-P3, tables and pictures."""

import csv
import dataclasses
import functools
import io
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath
from jax import Array
from ml_collections import ConfigDict

from jaxunet import dataset, distributed, input_pipeline, metrics, parallel, plots
from jaxunet.atomic import write_atomically
from jaxunet.input_pipeline import ExampleSource, Split
from jaxunet.models import Network
from jaxunet.predictor import Predictor
from jaxunet.predictor import load as load_predictor
from jaxunet.train_step import eval_step

EvalFn = Callable[[Any, Any], Array]

BOOTSTRAP_RESAMPLES = 10_000


def load_eval_split(config: ConfigDict, split: str) -> Split:
    """The validation or test images in host memory."""
    builder = dataset.open_builder(config.dataset, config.dataset.eval_config)
    source = ExampleSource(builder, split, config.dataset.targets, image_size=config.dataset.image_size)
    return input_pipeline.load_split(source, threads=config.input.threads)


def build_eval_fn(model: Network, config: ConfigDict) -> EvalFn:
    """`(variables, raw batch) -> counts int32 [B, C, 4]`, compiled over all devices."""
    return parallel.map_eval_step(functools.partial(eval_step, model=model, threshold=config.eval.threshold))


def count_split(
    eval_fn: EvalFn, variables: Any, split: Split, batch_size: int, should_stop: Callable[[], bool] = lambda: False
) -> np.ndarray | None:
    """What `eval_fn` counts of every image of `split`, int64 [N, C, 4] (or [N]), in its order; None if it was stopped.

    Padding is computed and thrown away.
    """
    results: list[tuple[Array, np.ndarray]] = []
    for raw, valid in input_pipeline.eval_batches(split, batch_size):
        if should_stop():
            return None
        if len(results) > 1:  # not further ahead of the device, so that a stop does not have to wait for it
            results[-2][0].block_until_ready()
        results.append((eval_fn(variables, raw), valid))
    return np.concatenate([np.asarray(counts, np.int64)[valid] for counts, valid in results])


def summarize(counts: np.ndarray, split: Split, targets: tuple[str, ...], *, resamples: int = 0) -> dict[str, Any]:
    """Protocols of the first target at top level, those of any other under `targets`; see `metrics.summarize`."""
    first, *others = (metrics.summarize(counts[:, i], split.labels, resamples=resamples) for i in range(len(targets)))
    return first | ({"targets": dict(zip(targets[1:], others, strict=True))} if others else {})


@dataclasses.dataclass(frozen=True)
class Scored:
    """A checkpoint and what it scored on a split.

    Attributes:
      predictor: the network.
      eval_fn: `(variables, raw batch) -> counts`, compiled.
      split: name of the split, and `data` its images.
      counts: int64 [N, C, 4], in the order of `data`.
    """

    predictor: Predictor
    eval_fn: EvalFn
    split: str
    data: Split
    counts: np.ndarray

    def predict_masks(self, index: np.ndarray) -> np.ndarray:
        """bool [K, H, W]: the first target's predicted mask of the images `index` int [K]."""
        logits = self.predictor.logits(self.data.image[index])
        return np.asarray(metrics.positive(logits[..., 0], self.predictor.threshold))


def score(config: ConfigDict, workdir: pathlib.Path, *, split: str, checkpoint: str) -> Scored:
    """Restores a checkpoint of `workdir` and counts every image of `split`; arguments as for `evaluate`."""
    predictor = load_predictor(config, workdir, checkpoint=checkpoint)
    data = load_eval_split(config, split)
    eval_fn = build_eval_fn(predictor.model, config)
    counts = count_split(eval_fn, predictor.variables, data, config.eval.batch_size)
    return Scored(predictor, eval_fn, split, data, counts)


def evaluate(config: ConfigDict, workdir: pathlib.Path, *, split: str, checkpoint: str) -> dict[str, Any]:
    """Evaluates a checkpoint of `workdir` on `split` and writes `eval/<split>/`; returns what `metrics.json` holds.

    Args:
      config: of the run, as `config.load` gives it.
      workdir: of the run.
      split: "train", "val" or "test".
      checkpoint: "latest", "best" or a step.
    """
    scored = score(config, workdir, split=split, checkpoint=checkpoint)
    data, counts, targets, step = scored.data, scored.counts, scored.predictor.targets, scored.predictor.step
    result = {
        "split": split,
        "dataset": f"{config.dataset.name}/{config.dataset.eval_config}",
        "image_size": list(data.image.shape[1:]),
        "target": targets[0],
        "threshold": config.eval.threshold,
        "checkpoint_step": step,
        "empty_mask_rule": metrics.EMPTY_MASK_RULE,
        **summarize(counts, data, targets, resamples=BOOTSTRAP_RESAMPLES),
    }
    out = workdir / "eval" / split
    if distributed.is_first():
        write_atomically(out / "metrics.json", json.dumps(result, indent=2) + "\n")
        write_atomically(out / "per_image.csv", per_image_csv(counts, data, targets))
    if config.eval.overlays:
        _write_overlays(out / "overlays", scored)
    height, width = data.image.shape[1:]
    print(
        f"{targets[0]} on {split} ({len(data.ids)} images of {height}x{width}), checkpoint {step}, "
        f"threshold {config.eval.threshold}"
    )
    print(metrics.table(result))
    for name, summary in result.get("targets", {}).items():
        print(f"\n{name}\n{metrics.table(summary)}")
    print(f"Empty masks: {metrics.EMPTY_MASK_RULE}. Intervals: bootstrap over images.")
    best = scored.predictor.best_step
    if best not in (None, step):
        print(f"Step {best} scored best in validation: --checkpoint=best evaluates it.")
    print(f"Written to {out}")
    return result


def per_image_csv(counts: np.ndarray, split: Split, targets: tuple[str, ...]) -> str:
    """One row per image and target, sorted by id: counts and metrics, exact to the last digit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "class", "target", "tp", "fp", "fn", "tn", *metrics.METRICS])
    values = [metrics.ratios(counts[:, t]) for t in range(len(targets))]
    for i in sorted(range(len(split.ids)), key=split.ids.__getitem__):
        for t, target in enumerate(targets):
            row = [split.ids[i], dataset.CLASSES[split.labels[i]], target, *map(int, counts[i, t])]
            writer.writerow(row + [repr(float(values[t][m][i])) for m in metrics.METRICS])
    return text.getvalue()


def _write_overlays(out: pathlib.Path, scored: Scored) -> None:
    """Best and worst images by Dice among those with infection: one PNG each, and all on one sheet."""
    counts, data = scored.counts[:, 0], scored.data
    dice = metrics.ratios(counts)["dice"]
    ranked = [int(i) for i in np.argsort(-dice, kind="stable") if counts[i, 0] + counts[i, 2] > 0]
    n = min(scored.predictor.config.eval.overlays, len(ranked) // 2)
    chosen = [("best", i) for i in ranked[:n]] + [("worst", i) for i in ranked[::-1][:n]]
    if not chosen:
        return
    predicted = scored.predict_masks(np.array([i for _, i in chosen]))
    if not distributed.is_first():
        return
    epath.Path(out).rmtree(missing_ok=True)
    pictures = []
    for row, (kind, i) in enumerate(chosen):
        rank = row % n + 1
        stem = pathlib.PurePosixPath(data.ids[i]).stem
        caption = f"{kind} {rank}: {stem}  Dice {dice[i]:.3f}"
        pictures.append(plots.overlay(data.image[i], data.truth(i), predicted[row], caption))
        plots.save(pictures[-1], out / f"{kind}_{rank:02d}_{stem}.png")
    plots.save(plots.contact_sheet(pictures, columns=min(n, 4)), out / "sheet.png")
