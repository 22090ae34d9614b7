"""`--mode=compare`: trains or reuses several systems and scores them on the same images, with paired intervals."""

import dataclasses
import itertools
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
from jaxunet.evaluation import figures, folds, per_image, significance
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
    """The results of one system. `counts` int32 [N, 4] are of the same images in the same order for all systems,
    `predicted` bool [K, H, W] of the images that are shown. `images_per_second`: of prediction on all devices, from
    host memory."""

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
    """Scores the systems of `config`, as in `configs/compare.py`, and of `runs`, workdirs of finished runs. Trains,
    continues or reuses the systems in folders of `workdir`, which also gets `comparison.md`, `.csv` and `.png`,
    `per_image.csv` and `side_by_side.png`.

    `overrides`: the keys given on the command line; each run takes those that it knows. `split`, `checkpoint`: as for
    `evaluate`. Raises UserError if fewer than two systems are named, or they were not made for the same images and
    masks.
    """
    trained = {name: _system_config(config, name) for name in config.get("systems", {})}
    for key in overrides if trained else ():
        _check_has_effect(key, config)
    folders = {name: workdir / name for name in trained} | _name_runs(runs, trained)
    if len(folders) < 2:
        raise UserError("A comparison needs two systems: use --config=configs/compare.py or --runs=runs/a,runs/b.")
    configs = {name: trained.get(name) or _run_config(folder, overrides) for name, folder in folders.items()}
    members = folds.group({name: (folder, configs[name]) for name, folder in folders.items()})
    if len(members) < 2:
        raise UserError("All of --runs are folds of one system: add the folds of another.")
    _check_comparable({name: runs[0][1] for name, runs in members.items()})

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
        jax.clear_caches()  # the next system cannot use these programs

    systems: list[System] = []
    data, shown = None, np.zeros(0, int)
    for name, runs_of in members.items():
        if name in skipped:
            continue
        print(f"---- scoring {name}", flush=True)
        scored = folds.score_together(runs_of, split=split, checkpoint=checkpoint)
        if data is None:
            data, shown = scored.data, _images_to_show(scored.counts[:, 0])
        if scored.data.ids != data.ids or not np.array_equal(*(d.arrays["mask"][..., 0] for d in (scored.data, data))):
            raise UserError(f"{name} was made for other images than {systems[0].name}: they have no common {split}.")
        systems.append(_describe(name, scored, shown, runs=len(runs_of)))
        jax.clear_caches()
    if data is None or len(systems) < 2:
        raise UserError(f"Only {len(systems)} of {len(members)} systems could be used, for the reasons given above.")

    if not processes.is_first():
        return
    report = _markdown(systems, skipped, data, split)
    write_atomically(workdir / "comparison.md", report)
    write_atomically(workdir / "comparison.csv", _csv(systems))
    write_atomically(workdir / "per_image.csv", per_image.differences_csv({s.name: s.counts for s in systems}, data))
    words = f"{protocols.in_words(data.positive_class)['P1']} (P1)"
    figures.comparison_bars({s.name: s.summary["P1"] for s in systems}, COLUMNS, words, workdir / "comparison.png")
    captions = [pathlib.PurePosixPath(data.ids[i]).stem for i in shown]
    predicted = {s.name: (s.predicted, protocols.ratios(s.counts[shown])["dice"]) for s in systems}
    truths = np.stack([data.truth(i) for i in shown])
    figures.side_by_side(data.image[shown], truths, predicted, captions, workdir / "side_by_side.png")
    print(f"\n{report}\nWritten to {workdir}")


# ---- what is compared ------------------------------------------------------------------------------------------------


def _system_config(config: ConfigDict, name: str) -> ConfigDict:
    """The config of one system. Sections of `config` beside `systems` replace its own."""
    system = ConfigDict(config.systems[name].to_dict())
    targets = system.dataset.targets
    for key, value in config.items():
        if key != "systems":
            system[key] = ConfigDict(value.to_dict()) if isinstance(value, ConfigDict) else value
    if "dataset" in config:
        system.dataset.targets = targets  # a system keeps its own
    system.lock()
    checks.check(system)
    return system


def _check_has_effect(key: str, config: ConfigDict) -> None:
    """Raises UserError if `_system_config` ignores the override `key`."""
    parts = key.split(".")
    own = parts[2:] if parts[0] == "systems" else []
    if own and own[0] in config and own != ["dataset", "targets"]:
        raise UserError(f"--config.{key} has no effect: set --config.{'.'.join(own)}, which all systems share.")
    if key == "dataset.targets":
        raise UserError(f"--config.{key} has no effect: set --config.systems.NAME.{key} for each system.")


def _name_runs(runs: list[pathlib.Path], taken: Mapping[str, Any]) -> dict[str, pathlib.Path]:
    """Name -> workdir: the name of the folder, or the whole path if the name is ambiguous."""
    short = [run.name for run in runs]
    return {(run.name if short.count(run.name) == 1 and run.name not in taken else str(run)): run for run in runs}


def _run_config(folder: pathlib.Path, overrides: dict[str, Any]) -> ConfigDict:
    """The config of the run, with those `overrides` that it knows."""
    config = config_file.load(folder)
    known = flatten(config)
    config.update_from_flattened_dict({key: value for key, value in overrides.items() if key in known})
    return config


def _check_comparable(configs: dict[str, ConfigDict]) -> None:
    (first, dataset), *others = ((name, config.dataset) for name, config in configs.items())
    for name, other in others:
        both = {key: (dataset[key], other[key]) for key in ("name", "eval_config", "image_size")}
        both["targets[0]"] = dataset.targets[0], other.targets[0]
        for key, (mine, theirs) in both.items():
            if mine != theirs:
                raise UserError(f"{first} and {name} cannot be compared: dataset.{key} is {mine!r} and {theirs!r}.")


def _images_to_show(counts: np.ndarray) -> np.ndarray:
    """Indices of images from small to large true infection, evenly spaced. No system's prediction has an influence."""
    area = counts[:, 0] + counts[:, 2]
    infected = np.argsort(area, kind="stable")[np.count_nonzero(area == 0) :]
    return infected[np.linspace(0, len(infected) - 1, _SHOWN + 2).astype(int)[1:-1]] if len(infected) else infected


def _describe(name: str, scored: Scored, shown: np.ndarray, *, runs: int) -> System:
    config = scored.predictor.config
    start = config.init.weights or config.init.run
    part = scored.data.part(np.arange(min(_TIMED_IMAGES, len(scored.data.ids))))
    began = time.perf_counter()  # the program is compiled: it has just scored the split
    split_pass.map_split(scored.eval_fn, scored.predictor.variables, part.arrays, config.eval.batch_size)
    seconds = time.perf_counter() - began
    return System(
        name=name,
        training=(f"{runs} folds, " if runs > 1 else "")
        + f"{scored.predictor.step:,} steps of {config.train.batch_size}"
        + (f" from {start}" if start else ""),
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
    measures = " | ".join(f"P1 {name}" for name in COLUMNS.values())
    images = f"{covid.sum()} {protocols.images(data.positive_class)}"
    lines = [
        f"Split {split}, images of {height}x{width}. P1: mean over {images}. P2: their pixels pooled. "
        f"P3: mean over all {len(data.ids)} images. In brackets: 95 % bootstrap intervals.",
        "",
        f"| system | training | parameters | images/s | {measures} | P2 Dice | P3 Dice |",
        "|---" * (6 + len(COLUMNS)) + "|",
    ]
    for s in systems:
        numbers = [*(s.summary["P1"][m] for m in COLUMNS), *(s.summary[p]["dice"] for p in ("P2", "P3"))]
        cells = " | ".join(map(bootstrap.in_words, numbers))
        lines.append(f"| {s.name} | {s.training} | {s.parameters:,} | {s.images_per_second:.1f} | {cells} |")
    lines += [f"| {name} | skipped: {reason} |" + " |" * (4 + len(COLUMNS)) for name, reason in skipped.items()]
    lines += ["", f"images/s: prediction on {jax.device_count()} x {jax.devices()[0].device_kind}."]
    lines += [f"Empty masks: {protocols.EMPTY_MASK_RULE}."]
    if ungated := " and ".join(s.name for s in systems if s.answers_covid19):
        lines += [f"{ungated}: not gated here, so P3 counts their masks on controls. `--mode=evaluate` gates them."]
    p = significance.paired_tests({s.name: protocols.ratios(s.counts[covid])["dice"] for s in systems})
    tests = " | ".join(f"p of Dice, {test}" for test in significance.TESTS)
    lines += ["", f"| paired difference, P1 | Dice | IoU | {tests} |", "|---" * (3 + len(significance.TESTS)) + "|"]
    for a, b in itertools.combinations(systems, 2):
        differences = [_difference(a.counts[covid], b.counts[covid], m) for m in ("dice", "iou")]
        differences += ["< 0.0001" if x < 1e-4 else f"{x:.4f}" for x in p[a.name, b.name].values()]
        lines.append(f"| {a.name} - {b.name} | {' | '.join(differences)} |")
    holm = f", with Holm's correction for {len(p)} pairs" if len(p) > 1 else ""
    lines += ["", f"p: two-sided, over the images of P1{holm}. It does not cover other seeds."]
    return "\n".join(lines) + "\n"


def _difference(a: np.ndarray, b: np.ndarray, metric: str) -> str:
    """Mean difference over the same images, with its interval. It is bold if the interval does not contain 0."""
    n = bootstrap.RESAMPLES
    low, high = bootstrap.interval(protocols.resampled("P1", a, n)[metric] - protocols.resampled("P1", b, n)[metric])
    mean = np.mean(protocols.ratios(a)[metric] - protocols.ratios(b)[metric])
    text = bootstrap.in_words({"mean": mean, "ci95": [low, high]}, "+.4f")
    return f"**{text}**" if low > 0 or high < 0 else text


def _csv(systems: list[System]) -> str:
    columns = "system parameters images_per_second protocol metric value low95 high95 n"
    rows: list[list[Any]] = [columns.split()]
    for s in systems:
        for protocol in protocols.PROTOCOLS:
            for name, number in s.summary.get(protocol, {}).items():
                row = [s.name, s.parameters, round(s.images_per_second, 2), protocol, name]
                rows.append([*row, bootstrap.estimate(number), *number["ci95"], number["n"]])
    return per_image.csv_text(rows)
