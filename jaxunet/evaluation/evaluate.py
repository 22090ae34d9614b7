"""Exact evaluation: every image of a split once, counts from the device, protocols P1-P3, tables and pictures."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.core.files import write_atomically
from jaxunet.core.pictures import overlay, png
from jaxunet.data.dataset_spec import SPLITS
from jaxunet.data.examples import Split
from jaxunet.data.originals import ALL, Originals, open_originals
from jaxunet.data.specs import spec_of
from jaxunet.data.targets import organ
from jaxunet.devices import processes, replicas
from jaxunet.evaluation import analysis, corruptions, elsewhere, figures, full_size, per_image, report, subgroups
from jaxunet.evaluation.elsewhere import Elsewhere
from jaxunet.evaluation.per_image import Columns, Measured
from jaxunet.prediction.loading import load as load_predictor
from jaxunet.prediction.predictor import Predictor
from jaxunet.runs.metric_log import read_metrics
from jaxunet.scoring import bootstrap, protocols
from jaxunet.scoring.counts import positive
from jaxunet.scoring.detection import IMAGE, Rule, rule_settings
from jaxunet.scoring.split_pass import EvalFn, build_eval_fn, load_eval_split, map_split, measure_step, summarize


@dataclasses.dataclass(frozen=True)
class Scored:
    """A checkpoint and its pixel counts on a split.

    Attributes:
      predictor: the network.
      eval_fn: `split_pass.eval_step` of that network, compiled.
      data: the images of the split.
      counts: int32 [N, C, 4], in the order of `data`.
      folds, fold: the networks of several folds, `predictor` among them, and int [N], the one that counted each image;
        () for one network.
    """

    predictor: Predictor
    eval_fn: EvalFn
    data: Split
    counts: np.ndarray
    folds: tuple[Predictor, ...] = ()
    fold: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, int))

    def predict_masks(self, index: np.ndarray) -> np.ndarray:
        """bool [K, H, W]: masks predicted for the first target on the images `index` int [K]."""
        masks = np.empty((len(index), *self.data.image.shape[1:]), bool)
        for k, network in enumerate(self.folds or (self.predictor,)):
            mine = self.fold[index] == k if self.folds else np.ones(len(index), bool)
            logits = network.outputs(self.data.image[index[mine]])["masks"]
            masks[mine] = positive(logits[..., 0], network.threshold)
        return masks


def score(predictor: Predictor, split: str) -> Scored:
    """Counts every image of `split` of the network's dataset."""
    config = predictor.config
    data = load_eval_split(config, split)
    eval_fn = build_eval_fn(predictor.model, config)
    found = map_split(eval_fn, predictor.variables, data.arrays, config.eval.batch_size)
    return Scored(predictor, eval_fn, data, found["counts"])


def evaluate(config: ConfigDict, workdir: pathlib.Path, *, split: str, checkpoint: str) -> dict[str, Any]:
    """`evaluate_predictor` for the run in `workdir`, into that folder.

    Args:
      config: of the run, as `config_file.load` gives it.
      workdir: of the run.
      split: "train", "val" or "test".
      checkpoint: "latest", "best" or a step.
    """
    return evaluate_predictor(load_predictor(config, workdir, checkpoint=checkpoint), workdir, split=split)


def evaluate_predictor(
    predictor: Predictor,
    workdir: pathlib.Path,
    *,
    split: str,
    members: Sequence[dict[str, Any]] = (),
    other: Elsewhere | None = None,
) -> dict[str, Any]:
    """Scores a network on a split, writes `eval/<split>/` and returns the content of `metrics.json`.

    Args:
      predictor: the network; its config names the dataset.
      workdir: folder that gets `eval/<split>/`.
      split: "train", "val" or "test".
      members: the entry of `metrics.json` for each run that the network averages.
      other: another dataset than the network's own, which replaces `split`. The folder is `eval/<its title>-<split>/`.

    Raises:
      UserError: if there is no such split, or the dataset cannot be used.
    """
    predictor, split = (other.network, other.split) if other else (predictor, split)
    if split not in SPLITS and not (other and split == ALL):
        raise UserError(f"split={split!r} is not one of {', '.join((*SPLITS, ALL)[: 4 if other else 3])}.")
    config, targets = predictor.config, predictor.records
    out = workdir / "eval" / (other.folder if other else split)
    if other:
        elsewhere.check_place(out / "metrics.json", other.about)
    spec = spec_of(config.dataset)
    sized = bool(spec.folder) or spec.size != predictor.image_size
    needed = other or sized or config.eval.corruptions
    originals = open_originals(config.dataset, split, predictor.targets) if needed else None
    if other and originals:
        print(elsewhere.in_words(other.about, predictor.targets))
        data = originals.fitted(predictor.image_size, threads=config.input.threads)
    else:
        data = load_eval_split(config, split)
    measured = measure(predictor, data)
    table = per_image.tabulate(measured, data, targets, config.eval.surface_tolerances, threads=config.input.threads)

    settings = rule_settings(config, step=predictor.step, members=members)
    result = {
        "split": split,
        **settings,
        **(other.about if other else {}),
        "positive_class": data.positive_class,
        "empty_mask_rule": protocols.EMPTY_MASK_RULE,
        **summarize(measured.counts, data, targets, resamples=bootstrap.RESAMPLES),
    }
    rule = None
    if other:
        rule = predictor.rule
    elif split != "val":
        path = out.parent / "val" / "metrics.json"
        answers, source = predictor.answers_covid19, f"chosen in {path}"
        rule = Rule.of_val(path, settings, answers=answers, source=source, masks=predictor.records)
        rule = rule or predictor.rule
    share_of = organ(targets) or IMAGE
    for i, target in enumerate(targets):
        block = result if i == 0 else result["targets"][target]
        block |= analysis.analyse(table[target], measured.histogram[:, i], data, share_of=share_of, rule=rule)

    _add_more(result, predictor, data, originals and originals.part(data.ids), table, sized=sized)
    _print(result, predictor.targets, len(data.ids))
    if predictor.best_step not in (None, predictor.step):
        print(f"Step {predictor.best_step} was the best in validation. --checkpoint=best evaluates it.")
    if processes.is_first():
        write_atomically(out / "metrics.json", json.dumps(result, indent=2) + "\n")
        write_atomically(out / "per_image.csv", per_image.to_csv(table, data))
        figures.analysis(result, table[predictor.targets[0]], data.positive, out / "analysis.png")
        _write_overlays(out / "overlays", config.eval.overlays, data, measured, table[predictor.targets[0]])
    page = out / "report.html"
    if config.eval.report:
        name = workdir.absolute().name
        text = report.render(
            predictor, data, measured.counts, result, read_metrics(workdir), name=name, covid19=measured.covid19
        )
        if processes.is_first():
            write_atomically(page, text)
    elif processes.is_first():
        page.unlink(missing_ok=True)  # it would show an earlier evaluation
    print(f"Written to {out}")
    return result


def measure(predictor: Predictor, data: Split) -> Measured:
    """Runs `split_pass.measure_step` on every image, in one pass over the device."""
    config = predictor.config
    step = functools.partial(measure_step, model=predictor.model, threshold=config.eval.threshold)
    return Measured(**map_split(replicas.map_eval_step(step), predictor.variables, data.arrays, config.eval.batch_size))


def _add_more(
    result: dict[str, Any],
    predictor: Predictor,
    data: Split,
    originals: Originals | None,
    table: dict[str, Columns],
    *,
    sized: bool,
) -> None:
    """Adds `full_size` if `sized`, `subgroups` and `corruptions` to `result`, and columns of the files to `table`."""
    found = result.get("detection") if predictor.answers_covid19 else None
    rule = Rule.from_dict(found, answers=True) if found else None
    called = rule.calls(table[predictor.targets[0]]["covid19_probability"]) if rule else None
    at_full_size = full_size.tabulate(predictor, originals) if originals and sized else {}
    for i, target in enumerate(predictor.targets):
        block = result if i == 0 else result["targets"][target]
        if at_full_size:
            block["full_size"] = full_size.summarize(at_full_size[target], data.positive, called if i == 0 else None)
        scores = table[target]["dice"], data.positive, called if i == 0 else None
        if groups := subgroups.summarize(subgroups.columns_of(data), *scores):
            block["subgroups"] = groups
        table[target] |= {f"full_size_{name}": values for name, values in at_full_size.get(target, {}).items()}
    if originals and predictor.config.eval.corruptions:
        result["corruptions"] = corruptions.score(predictor, originals, rule)


def _print(result: dict[str, Any], targets: Sequence[str], images: int) -> None:
    height, width = result["image_size"]
    steps = ", ".join(str(m["checkpoint_step"]) for m in result["members"])
    which = f"mean of {len(result['members'])} runs at steps {steps}" if steps else result["checkpoint_step"]
    print(
        f"{targets[0]} on {result['split']} ({images} images of {height}x{width}), checkpoint {which}, "
        f"threshold {result['threshold']}{', with flips' if result['flips'] else ''}"
    )
    for target, block in {targets[0]: result, **result.get("targets", {})}.items():
        if block is not result:
            print(f"\n{target}")
        print(protocols.table(block, result["positive_class"]))
        print("\n".join(analysis.lines(block, result["positive_class"])))
        if "full_size" in block:
            print(full_size.in_words(block["full_size"], result["positive_class"]))
        print("".join(f"{line}\n" for line in subgroups.lines(block.get("subgroups", {}))), end="")
    if "corruptions" in result:
        print("\n".join(["", *corruptions.lines(result["corruptions"])]))
    print(f"Empty masks: {protocols.EMPTY_MASK_RULE}. Intervals: 95 %, bootstrap over images.")


def _write_overlays(out: pathlib.Path, overlays: int, data: Split, measured: Measured, columns: Columns) -> None:
    """Writes the images with the best and the worst Dice, among those with a lesion: one PNG each and one of all."""
    dice, area = columns["dice"], columns["tp"] + columns["fn"]
    ranked = [int(i) for i in np.argsort(-dice, kind="stable") if area[i] > 0]
    n = min(overlays, len(ranked) // 2)
    chosen = [("best", i) for i in ranked[:n]] + [("worst", i) for i in ranked[::-1][:n]]
    if not chosen:
        return
    epath.Path(out).rmtree(missing_ok=True)
    drawn = []
    for row, (kind, i) in enumerate(chosen):
        rank = row % n + 1
        stem = pathlib.PurePosixPath(data.ids[i]).stem
        caption = f"{kind} {rank}: {stem}  Dice {dice[i]:.3f}"
        drawn.append(overlay(data.image[i], data.truth(i), measured.predicted(i), caption))
        write_atomically(out / f"{kind}_{rank:02d}_{stem}.png", png(drawn[-1]))
    write_atomically(out / "sheet.png", png(figures.contact_sheet(drawn, columns=min(n, 4))))
