"""MODEL_CARD.md: what a reader must know about an exported network before using it.

Called by export.py. Every number is read from the files of the run. The card says if one of them is absent.
"""

import json
import pathlib
import re
import shlex
import string
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxunet.data import prepared
from jaxunet.data.specs import spec_of
from jaxunet.data.targets import finding
from jaxunet.export.formats import FORMATS
from jaxunet.models.build import NETWORKS
from jaxunet.prediction.predictor import Predictor
from jaxunet.scoring import protocols
from jaxunet.scoring.bootstrap import in_words

NAME = "MODEL_CARD.md"
TEMPLATE = pathlib.Path(__file__).with_name("model_card.md")


def training_data(config: ConfigDict) -> tuple[str, str]:
    """Name of the dataset in `config` with its citation, and its terms of use."""
    spec = spec_of(config.dataset)
    return ", ".join(filter(None, (spec.title, spec.citation))), spec.terms


def model_card(
    source: Predictor,
    places: Sequence[pathlib.Path],
    scores: pathlib.Path | None,
    metadata: dict[str, Any],
    file: str,
    format: str,
    agreement: str,
) -> str:
    """The card's text, in Markdown.

    Args:
      places: the run or the file that the network was loaded from; of a mean, all of them.
      scores: of a mean, the folder with its scores, if there is one.
      metadata: from `export.describe`.
      file, format, agreement: of the exported file, its name, its format and a sentence on how it was checked.
    """
    size, versions, spec = source.image_size, metadata["versions"], spec_of(source.config.dataset)
    scores = scores if len(places) > 1 else places[0]
    several = "" if len(places) == 1 else f" of the first run; the network is {source.origin}"
    evaluated, measured = _scores(source, scores)
    return string.Template(TEMPLATE.read_text()).substitute(
        license_link=f"https://www.{spec.archive.homepage}" if spec.archive else NAME,
        model_index=json.dumps([{"name": "jaxunet", "results": measured}] if measured else []),  # JSON is YAML
        run=text((scores or places[0]).resolve().name),
        targets=" and ".join(source.targets),
        network=NETWORKS[source.config.model.name].words(source.config.model),
        size=size,
        step=f"{source.step:,}{several}",
        training_data=_training_data(source, places[0]),
        settings=_settings(source),
        scores=evaluated,
        limits=_limits(source),
        how_to_run=FORMATS[format].how_to_run(file=code(file), format=format, size=size, agreement=text(agreement)),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
    )


def _indexed(result: dict[str, Any]) -> dict[str, Any]:
    """A metrics.json as an entry of Hugging Face's `model-index`."""
    metrics = [
        {"type": m, "name": f"{m}, {target}, {protocol}", "value": next(iter(block[protocol][m].values()))}
        for target, block in {result["target"]: result, **result.get("targets", {})}.items()
        for protocol in ("P1", "P2")
        for m in ("dice", "iou")
    ]
    dataset = {"name": f"{result['dataset']}, {result['split']}", "type": result["dataset"], "split": result["split"]}
    return {"task": {"type": "image-segmentation"}, "dataset": dataset, "metrics": metrics}


def text(words: Any) -> str:
    """`words` on one line, escaped so that Markdown and HTML show them unchanged."""
    return re.sub(r"([\\`*_\[\]<>!|&~])", r"\\\1", " ".join(str(words).split()))


def code(name: str) -> str:
    """A file name for use in code, without characters that could end the code or a string in it."""
    return re.sub(r"[^\w .,+()@=-]", "_", name)


def _training_data(source: Predictor, workdir: pathlib.Path) -> str:
    config, (name, terms) = source.config.dataset, training_data(source.config)
    spec = spec_of(config)
    lines = [
        f"- Dataset: {name}. Trained on the part `{config.train_config}`, scored on the part `{config.eval_config}`.",
        f"- Terms of use: {terms}",
    ]
    if not workdir.is_dir():
        first = f"Source of the weights: {text(workdir.name)}. The model card beside that file says more."
        return "\n".join([first, "", *lines])
    if not (workdir / "metrics.jsonl").is_file():
        first = (
            "The run has no training log: these weights were imported or never trained, and their training data are "
            "unknown. The settings name this dataset, which may be another one:"
        )
        return "\n".join([first, "", *lines])
    if weights := source.config.init.weights or source.config.init.run:
        imagenet = NETWORKS[source.config.model.name].imagenet
        words = text(pathlib.PurePath(weights).name)
        if weights == "imagenet" and imagenet:
            words = f"ImageNet weights ({imagenet.words})"
        lines.append(f"- Training started from {words}, whose training data count too.")
    builder, scored = (prepared.prepared(config, part) for part in (config.train_config, config.eval_config))
    if builder is None or scored is None:
        lines.append("- The prepared dataset is not on this machine, so the card gives no numbers of images and leaks.")
        return "\n".join(lines)
    dropped = prepared.dropped_from_train(builder) if config.drop_leaked else frozenset()
    if config.drop_near_duplicates:
        alike = prepared.near_in_train(builder)
        dropped |= {i for i in alike if spec.folder or spec.in_subset(i, config.train_config)}
    train, val, test = (prepared.number(b, s) for b, s in ((builder, "train"), (scored, "val"), (scored, "test")))
    lines.append(f"- Images: {train - len(dropped):,} for training, {val:,} Val, {test:,} Test.")
    found = prepared.verification(builder)
    if spec.archive:
        part = config.train_config
        near = [p for p in found["near"] if any(spec.in_train(i) and spec.in_subset(i, part) for i in p)]
        identical, fate = len(found["dropped_from_train"]), "left out" if config.drop_leaked else "**kept**"
        lines.append(
            f"- Leakage: training images identical to one of Val or Test: {identical}, {fate}. Pairs of a training "
            f"image and one of Val or Test that are nearly identical: {len(near)}, "
            f"{'left out' if config.drop_near_duplicates else 'kept'}. File names do not tell the patient, so one "
            f"patient may be in two splits."
        )
    return "\n".join(lines)


def _settings(source: Predictor) -> str:
    config = source.config
    parameters = sum(np.size(x) for x in jax.tree.leaves(source.variables["params"]))
    length = f"{config.train.total_epochs} epochs" if config.train.total_epochs else f"{config.train.total_steps} steps"
    rows = {
        "network": f"{NETWORKS[config.model.name].words(config.model)}, {parameters:,} parameters",
        "image size": f"{source.image_size}x{source.image_size}",
        "targets": ", ".join(config.dataset.targets),
        "threshold": source.threshold,
        "COVID-19 or not": source.rule_in_words,
        "mean of X-ray and mirror image": "yes" if config.eval.flips else "no",
        "input": f"(pixel / 255 - {config.model.input_mean}) / {config.model.input_std}",
        "planned length": f"{length} of batches of {config.train.batch_size}; exported at step {source.step:,}",
        "loss": config.loss.name,
        "optimizer": f"{config.optimizer.name}, {config.optimizer.schedule}, rate {config.optimizer.learning_rate:g}",
        "moving average of weights": f"decay {config.train.ema_decay:g}" if config.train.ema_decay else "no",
        "seed": config.seed,
    }
    table = "\n".join(f"| {name} | {text(value)} |" for name, value in rows.items())
    return f"| setting | value |\n|---|---|\n{table}\n\nThe metadata of the file have every setting, under `config`."


def _scores(source: Predictor, workdir: pathlib.Path | None) -> tuple[str, list[dict[str, Any]]]:
    """The scores in words, and those of the exported network as entries of Hugging Face's `model-index`."""
    if workdir is None or not workdir.is_dir():
        return "**Not evaluated.**", []
    blocks, measured = [], []
    for path in sorted(workdir.glob("eval/*/metrics.json")):
        try:
            result = json.loads(path.read_text())
            blocks.append(_score(source, result))
            measured += [_indexed(result)] if _is_of(source, result) else []
        except (KeyError, TypeError, ValueError) as error:
            blocks.append(f"`eval/{code(path.parent.name)}/metrics.json` cannot be read ({text(repr(error))}).")
    command = f"python launch.py --mode=evaluate --workdir={shlex.quote(code(workdir.resolve().name))} --split=test"
    return "\n\n".join(blocks) or f"**Not evaluated.** Run `{command}`, then export again.", measured


def _is_of(source: Predictor, result: dict[str, Any]) -> bool:
    """Whether a metrics.json is of this network, with its settings."""
    scored = result["checkpoint_step"], result["threshold"], result.get("flips", False)
    return bool(scored == (source.step, source.threshold, source.config.eval.flips))


def _score(source: Predictor, result: dict[str, Any]) -> str:
    """The scores on one split: every protocol, with its number of images and 95 % intervals."""
    flips = ", mean of X-ray and mirror image" if result.get("flips") else ""
    height, width = result["image_size"]
    lines = [
        f"**{text(result['split'])}** of {text(result['dataset'])}, {height}x{width}, threshold {result['threshold']}, "
        f"checkpoint {result['checkpoint_step']}{flips}. Empty masks: {text(result['empty_mask_rule'])}."
    ]
    if not _is_of(source, result):
        lines.append(
            f"**These are not the scores of the exported network.** That is checkpoint {source.step} at threshold "
            f"{source.threshold}, with{'' if source.config.eval.flips else 'out'} the mean of X-ray and mirror image."
        )
    rows = [f"| target | protocol | n | {' | '.join(protocols.METRICS)} |", "|---" * (3 + len(protocols.METRICS)) + "|"]
    known = protocols.in_words(result.get("positive_class", "COVID-19"))
    for target, block in {result["target"]: result, **result.get("targets", {})}.items():
        scores = [(f"{p}: {words}", block[p]) for p, words in known.items() if p in block]
        gated = ((p, block["gated"][p]) for p in ("P1", "P2", "P3") if "gated" in block)
        scores += [(f"{p} gated: blank where not called COVID-19", numbers) for p, numbers in gated]
        for words, numbers in scores:
            cells = " | ".join(in_words(numbers[m]) for m in protocols.METRICS)
            rows.append(f"| {text(target)} | {text(words)} | {numbers[protocols.METRICS[0]]['n']} | {cells} |")
    for block in (result, *result.get("targets", {}).values()):
        if "score_is" in (found := block.get("detection", {})):
            rows.append(
                f"\nCOVID-19 or not, decided by the {found['score_is']}: ROC AUC {in_words(found['auc'])}. Above "
                f"{found['threshold']:.4f} ({text(found['threshold_from'])}): sensitivity "
                f"{in_words(found['sensitivity'])}, specificity {in_words(found['specificity'])}."
            )
    controls = result["controls"]
    if controls["n"]:
        words = f"{controls['blank_predictions']} of {controls['n']} images with a blank truth were predicted blank."
        if "gated" in result:
            words += f" Gated: {result['gated']['controls']['blank_predictions']}."
        rows.append("\n" + words)
    return "\n\n".join([*lines, "\n".join(rows)])


# For networks with the target "covid19".
UNGATED = (
    "Infection was learnt from COVID-19 images only: on other X-rays its mask can mark healthy lungs. covid19 is the "
    "probability that an X-ray resembles the COVID-19 images of the training data."
)
_ELSEWHERE = (
    ' On 54 X-rays of another hospital group the shipped network\'s answer "COVID-19" has a ROC AUC of 0.46, on '
    "Test of COVID-QU-Ex 0.993. It means no more than that an X-ray resembles the COVID-19 images of the training data."
)


def _limits(source: Predictor) -> str:
    """The limits that depend on the dataset and targets. The template has those of every network."""
    dataset = source.config.dataset
    spec, words = spec_of(dataset), ""
    if not spec.folder:
        words += _ELSEWHERE
    if finding(source.records) and spec.has_controls(dataset.train_config):
        words += "\n- The training images include other pneumonia and normal lungs."
        words += f" {UNGATED}" if source.answers_covid19 else ""
    elif finding(source.records) and spec.positive:
        words += "\n- It was trained on COVID-19 images only. Expect it to mark infection on lungs without any."
    return words
