"""`--mode=compare`: several systems trained or reused, scored on the same images, with paired intervals."""

import csv
import dataclasses
import io
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxunet.core.errors import UserError, WeightsUnavailable
from jaxunet.core.files import write_atomically
from jaxunet.data.examples import Split
from jaxunet.devices import processes
from jaxunet.evaluation import evaluate, figures, per_image
from jaxunet.evaluation.evaluate import Scored
from jaxunet.runs import checks, config_file
from jaxunet.runs.settings import flatten
from jaxunet.scoring import bootstrap, protocols, split_pass
from jaxunet.training.loop import train

COLUMNS = {"accuracy": "accuracy", "iou": "IoU", "dice": "Dice/F1", "precision": "precision", "recall": "recall"}
_SHOWN = 5  # images in the side-by-side picture
_TIMED_IMAGES = 256


@dataclasses.dataclass(frozen=True)
class System:
    """What the comparison keeps of one system.

    Attributes:
      name: as it is printed.
      training: a few words about it.
      summary: `protocols.summarize` with intervals.
      counts: int32 [N, 4], images in the order that all systems share.
      predicted: bool [K, H, W], masks of the images that are shown.
      answers_covid19: whether the network answers for the whole image, too.
      parameters: their number.
      images_per_second: of prediction on all devices present, from host memory.
    """

    name: str
    training: str
    summary: dict[str, Any]
    counts: np.ndarray
    predicted: np.ndarray
    answers_covid19: bool
    parameters: int
    images_per_second: float


def compare(
    config: ConfigDict,
    runs: list[pathlib.Path],
    overrides: dict[str, Any],
    workdir: pathlib.Path,
    *,
    split: str,
    checkpoint: str,
) -> None:
    """Trains the systems of `config` below `workdir`, or continues or reuses them, and scores them and `runs`.

    Args:
      config: has `systems`, as `configs/compare.py`; one without them compares `runs` alone.
      runs: workdirs of finished runs.
      overrides: the keys given on the command line; those that a run has are applied to it.
      workdir: gets `comparison.md`, `.csv` and `.png`, `per_image.csv`, `side_by_side.png`, and a folder for each
        system trained here.
      split: "train", "val" or "test".
      checkpoint: "latest", "best" or a step.

    Raises:
      UserError: if fewer than two systems are named, or they were not made for the same images and masks.
    """
    trained = {name: _system_config(config, name) for name in config.get("systems", {})}
    for key in overrides if trained else ():
        _check_has_effect(key, config)
    folders = {name: workdir / name for name in trained} | _name_runs(runs, trained)
    if len(folders) < 2:
        raise UserError(
            "A comparison needs two systems: use --config=configs/compare.py, or name runs with --runs=runs/a,runs/b."
        )
    configs = {name: trained.get(name) or _run_config(folder, overrides) for name, folder in folders.items()}
    _check_comparable(configs)

    skipped: dict[str, str] = {}
    for name, system_config in trained.items():
        print(f"---- {name}", flush=True)
        try:
            if not train(system_config, folders[name]):
                print("The comparison was stopped; the same command continues it.")
                return
        except WeightsUnavailable as error:
            skipped[name] = str(error)
            print(f"skipped: {error}")
        jax.clear_caches()  # the programs of one system are of no use to the next

    systems: list[System] = []
    data, shown = None, np.zeros(0, int)
    for name in (n for n in folders if n not in skipped):
        print(f"---- scoring {name}", flush=True)
        scored = evaluate.score(configs[name], folders[name], split=split, checkpoint=checkpoint)
        if data is None:
            data, shown = scored.data, _images_to_show(scored.counts[:, 0])
        if scored.data.ids != data.ids or not np.array_equal(*(d.arrays["mask"][..., 0] for d in (scored.data, data))):
            raise UserError(f"{folders[name]} was made for other images than {folders[systems[0].name]}.")
        systems.append(_describe(name, scored, shown))
        jax.clear_caches()
    if len(systems) < 2:
        raise UserError(f"Only {len(systems)} of {len(folders)} systems could be used, for the reasons given above.")

    if not processes.is_first():
        return
    report = _markdown(systems, skipped, data, split)
    write_atomically(workdir / "comparison.md", report)
    write_atomically(workdir / "comparison.csv", _csv(systems))
    counts = {s.name: s.counts for s in systems}
    write_atomically(workdir / "per_image.csv", per_image.differences_csv(counts, data))
    figures.comparison_bars({s.name: s.summary["P1"] for s in systems}, COLUMNS, workdir / "comparison.png")
    captions = [f"{pathlib.PurePosixPath(data.ids[i]).stem}" for i in shown]
    predicted = {s.name: (s.predicted, protocols.ratios(s.counts[shown])["dice"]) for s in systems}
    truths = np.stack([data.truth(i) for i in shown])
    figures.side_by_side(data.image[shown], truths, predicted, captions, workdir / "side_by_side.png")
    print(f"\n{report}\nWritten to {workdir}")


# ---- what is compared ------------------------------------------------------------------------------------------------


def _system_config(config: ConfigDict, name: str) -> ConfigDict:
    """The config of one system: its own, with the sections that stand beside `systems` in place of its own."""
    system = ConfigDict(config.systems[name].to_dict())
    for key in config:
        if key == "dataset":  # which masks are learnt is the system's own
            targets = system.dataset.targets
            system.dataset = ConfigDict(config.dataset.to_dict())
            system.dataset.targets = targets
        elif key != "systems":
            value = config[key]
            system[key] = ConfigDict(value.to_dict()) if isinstance(value, ConfigDict) else value
    system.lock()
    checks.check(system)
    return system


def _check_has_effect(key: str, config: ConfigDict) -> None:
    """Raises UserError if the override `key` is none that `_system_config` heeds."""
    parts = key.split(".")
    own = parts[2:] if parts[0] == "systems" else []
    if own and own[0] in config and own != ["dataset", "targets"]:
        raise UserError(f"--config.{key} has no effect: all systems share --config.{'.'.join(own)}.")
    if key == "dataset.targets":
        raise UserError(f"--config.{key} has no effect: every system has its own, --config.systems.NAME.{key}.")


def _name_runs(runs: list[pathlib.Path], taken: Mapping[str, Any]) -> dict[str, pathlib.Path]:
    """Name -> workdir: the folder's own name, or the whole path where that would be ambiguous."""
    short = [run.name for run in runs]
    return {(run.name if short.count(run.name) == 1 and run.name not in taken else str(run)): run for run in runs}


def _run_config(folder: pathlib.Path, overrides: dict[str, Any]) -> ConfigDict:
    """The config that the run was made with, and those of the `overrides` that it knows."""
    config = config_file.load(folder)
    known = flatten(config)
    config.update_from_flattened_dict({key: value for key, value in overrides.items() if key in known})
    return config


def _check_comparable(configs: dict[str, ConfigDict]) -> None:
    first, *others = configs
    for name in others:
        for what, value in (
            ("dataset.name", lambda c: c.dataset.name),
            ("dataset.eval_config", lambda c: c.dataset.eval_config),
            ("dataset.image_size", lambda c: c.dataset.image_size),
            ("dataset.targets[0]", lambda c: c.dataset.targets[0]),
        ):
            mine, theirs = value(configs[first]), value(configs[name])
            if mine != theirs:
                raise UserError(f"{first} and {name} cannot be compared: {what} is {mine!r} and {theirs!r}.")


def _images_to_show(counts: np.ndarray) -> np.ndarray:
    """Indices of images from small to large infection, evenly spaced: chosen by the truth, not by the predictions."""
    area = counts[:, 0] + counts[:, 2]
    infected = np.argsort(area, kind="stable")[np.count_nonzero(area == 0) :]
    return infected[np.linspace(0, len(infected) - 1, _SHOWN + 2).astype(int)[1:-1]] if len(infected) else infected


def _describe(name: str, scored: Scored, shown: np.ndarray) -> System:
    config = scored.predictor.config
    train, start = config.train, config.init.weights or config.init.run
    length = f"{scored.predictor.step:,} steps of {train.batch_size}"
    part = scored.data.part(np.arange(min(_TIMED_IMAGES, len(scored.data.ids))))
    began = time.perf_counter()  # compiled and warm: the split was just scored
    split_pass.map_split(scored.eval_fn, scored.predictor.variables, part.arrays, config.eval.batch_size)
    seconds = time.perf_counter() - began
    return System(
        name=name,
        training=length + (f" from {start}" if start else ""),
        summary=protocols.summarize(scored.counts[:, 0], scored.data.positive, resamples=bootstrap.RESAMPLES),
        counts=scored.counts[:, 0],
        predicted=scored.predict_masks(shown),
        answers_covid19=scored.predictor.answers_covid19,
        parameters=sum(x.size for x in jax.tree.leaves(scored.predictor.variables["params"])),
        images_per_second=len(part.ids) / seconds,
    )


# ---- what is written -------------------------------------------------------------------------------------------------


def _markdown(systems: list[System], skipped: dict[str, str], data: Split, split: str) -> str:
    covid = protocols.protocol_images("P1", data.positive)
    height, width = data.image.shape[1:]
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    lines = [
        f"Split {split}, images of {height}x{width}; P1: mean over {covid.sum()} COVID-19 images, P2: their pixels "
        f"pooled, P3: mean over all {len(data.ids)} images. 95 % bootstrap intervals in brackets.",
        "",
        "| system | training | parameters | images/s | "
        + " | ".join(f"P1 {h}" for h in COLUMNS.values())
        + " | P2 Dice | P3 Dice |",
        "|---" * (6 + len(COLUMNS)) + "|",
    ]
    for s in systems:
        cells = [_cell(s.summary["P1"][m]) for m in COLUMNS]
        cells += [_cell(s.summary[p]["dice"]) for p in ("P2", "P3")]
        lines.append(
            f"| {s.name} | {s.training} | {s.parameters:,} | {s.images_per_second:.1f} | " + " | ".join(cells) + " |"
        )
    lines += [f"| {name} | skipped: {reason} |" + " |" * (4 + len(COLUMNS)) for name, reason in skipped.items()]
    lines += ["", f"images/s: prediction on {device}. Empty masks: {protocols.EMPTY_MASK_RULE}."]
    if ungated := [s.name for s in systems if s.answers_covid19]:
        lines += [
            f"{' and '.join(ungated)}: an answer for the whole image (target covid19) is not applied here, so controls "
            f"are not blank in P3; `--mode=evaluate` has the gated scores."
        ]
    lines += ["", "| paired difference, P1 | Dice | IoU |", "|---|---|---|"]
    for i, a in enumerate(systems):
        for b in systems[i + 1 :]:
            cells = " | ".join(_difference(a.counts[covid], b.counts[covid], m) for m in ("dice", "iou"))
            lines.append(f"| {a.name} - {b.name} | {cells} |")
    return "\n".join(lines) + "\n"


def _cell(numbers: dict[str, Any]) -> str:
    low, high = numbers["ci95"]
    return f"{numbers.get('mean', numbers.get('value')):.4f} [{low:.4f}, {high:.4f}]"


def _difference(a: np.ndarray, b: np.ndarray, metric: str) -> str:
    """Mean difference over the same images with its interval; bold if that does not hold zero."""
    n = bootstrap.RESAMPLES
    low, high = bootstrap.interval(protocols.resampled("P1", a, n)[metric] - protocols.resampled("P1", b, n)[metric])
    mean = np.mean(protocols.ratios(a)[metric] - protocols.ratios(b)[metric])
    text = f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def _csv(systems: list[System]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["system", "parameters", "images_per_second", "protocol", "metric", "value", "low95", "high95", "n"]
    )
    for s in systems:
        for protocol in protocols.PROTOCOLS:
            for name, numbers in s.summary.get(protocol, {}).items():
                value = numbers.get("mean", numbers.get("value"))
                row = [s.name, s.parameters, round(s.images_per_second, 2), protocol, name, value]
                writer.writerow([*row, *numbers["ci95"], numbers["n"]])
    return text.getvalue()
