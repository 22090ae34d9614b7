"""MODEL_CARD.md: what a reader must know of an exported network before using it, from the run itself.

Called by `export.py`. Every number is read from the run's files; what is not there is said to be absent.
"""

import json
import pathlib
import re
import shlex
import string
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

NAME = "MODEL_CARD.md"
TEMPLATE = pathlib.Path(__file__).with_name("model_card.md")


def training_data(config: ConfigDict) -> tuple[str, str]:
    """Name of the dataset in `config`, and a note on its terms of use."""
    spec = spec_of(config.dataset)
    return f"{spec.title}, {spec.citation}", spec.terms


def model_card(
    source: Predictor,
    workdir: pathlib.Path,
    metadata: dict[str, Any],
    file: str,
    format: str,
    agreement: str,
    *,
    trained_in: pathlib.Path,
) -> str:
    """The card's text, in Markdown.

    Args:
      source: the network.
      workdir: of the run, or the folder with the scores of several runs' mean.
      metadata: as `export.describe` gives it.
      file: name of the artefact.
      format: a key of `FORMATS`.
      agreement: a sentence on how the artefact was checked.
      trained_in: workdir of the run, or of the first of several.
    """
    size, versions = source.image_size, metadata["versions"]
    several = "" if trained_in == workdir else f"; {source.origin}, of which this is the first"
    return string.Template(TEMPLATE.read_text()).substitute(
        run=text(workdir.resolve().name),
        targets=" and ".join(source.targets),
        network=_network(source.config),
        size=size,
        step=f"{source.step:,}{several}",
        training_data=_training_data(source, trained_in),
        settings=_settings(source, metadata),
        scores=_scores(source, workdir),
        limits=_limits(source),
        how_to_run=FORMATS[format].how_to_run(file=code(file), format=format, size=size, agreement=text(agreement)),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
    )


def text(words: Any) -> str:
    """`words` such that Markdown and HTML show them as they are, on one line."""
    one_line = " ".join(str(words).split())
    return re.sub(r"([\\`*_\[\]<>!|&~])", r"\\\1", one_line)


def code(name: str) -> str:
    """A file name inside code: without what would end the code or the string in it."""
    return re.sub(r"[^\w .,+()@=-]", "_", name)


def _network(config: ConfigDict) -> str:
    return NETWORKS[config.model.name].words(config.model)


def _training_data(source: Predictor, workdir: pathlib.Path) -> str:
    config, (name, terms) = source.config.dataset, training_data(source.config)
    spec = spec_of(config)
    lines = [
        f"- Dataset: {name}; part `{config.train_config}`, scored on `{config.eval_config}`.",
        f"- Terms of use: {terms}",
    ]
    if not (workdir / "metrics.jsonl").is_file():
        return (
            "The run holds no training log: these weights were imported or never trained, and the card cannot tell on "
            "what. The settings name this dataset, which may not be the one:\n\n" + "\n".join(lines)
        )
    weights = source.config.init.weights or source.config.init.run
    if weights:
        words = (
            "ImageNet weights (torchvision, BSD-3)" if weights == "imagenet" else text(pathlib.PurePath(weights).name)
        )
        lines.append(f"- Started from {words}: what those were trained on counts, too.")
    builders = {part: prepared.prepared(config, part) for part in (config.train_config, config.eval_config)}
    builder = builders[config.train_config]
    if None in builders.values():
        return "\n".join(
            [*lines, "- Its prepared form is not on this machine any more: sizes and leaks were not looked up."]
        )
    dropped = prepared.dropped_from_train(builder) if config.drop_leaked else frozenset()
    if config.drop_near_duplicates:
        dropped |= {i for i in prepared.near_in_train(builder) if spec.in_subset(i, config.train_config)}
    sizes = {split: builders[config.eval_config].info.splits[split].num_examples for split in ("val", "test")}
    train = builder.info.splits["train"].num_examples
    lines.append(f"- Images: {train - len(dropped):,} for training, {sizes['val']:,} Val, {sizes['test']:,} Test.")
    found = prepared.verification(builder)
    if spec.archive:
        part = config.train_config
        near = [p for p in found["near"] if any(spec.in_train(i) and spec.in_subset(i, part) for i in p)]
        identical, fate = len(found["dropped_from_train"]), "left out" if config.drop_leaked else "**kept**"
        lines.append(
            f"- Split hygiene: images of Train that are byte for byte one of Val or Test: {identical}, {fate}. Pairs "
            f"of a training image and one of Val or Test that are nearly identical: {len(near)}, "
            f"{'left out' if config.drop_near_duplicates else 'kept'}. File names carry no patient, so the same "
            f"patient may be in two splits."
        )
    return "\n".join(lines)


def _settings(source: Predictor, metadata: dict[str, Any]) -> str:
    config = source.config
    parameters = sum(np.size(x) for x in jax.tree.leaves(source.variables["params"]))
    length = f"{config.train.total_epochs} epochs" if config.train.total_epochs else f"{config.train.total_steps} steps"
    rows = {
        "network": f"{_network(config)}, {parameters:,} parameters",
        "image size": f"{source.image_size}x{source.image_size}",
        "targets": ", ".join(source.config.dataset.targets),
        "threshold": source.threshold,
        "averaged over mirror images": "yes" if source.config.eval.flips else "no",
        "input": f"(pixel / 255 - {config.model.input_mean}) / {config.model.input_std}",
        "planned length": f"{length} of batches of {config.train.batch_size}; exported at step {source.step:,}",
        "loss": config.loss.name,
        "optimizer": f"{config.optimizer.name}, {config.optimizer.schedule}, rate {config.optimizer.learning_rate:g}",
        "averaged weights": f"decay {config.train.ema_decay:g}" if config.train.ema_decay else "no",
        "seed": config.seed,
    }
    table = "\n".join(f"| {name} | {text(value)} |" for name, value in rows.items())
    return f"| setting | value |\n|---|---|\n{table}\n\nEvery setting is in the file's metadata, under `config`."


def _scores(source: Predictor, workdir: pathlib.Path) -> str:
    blocks = []
    for path in sorted(workdir.glob("eval/*/metrics.json")):
        try:
            blocks.append(_score(source, json.loads(path.read_text())))
        except (KeyError, TypeError, ValueError) as error:
            blocks.append(f"`eval/{code(path.parent.name)}/metrics.json` cannot be read ({text(repr(error))}).")
    command = f"python launch.py --mode=evaluate --workdir={shlex.quote(code(workdir.resolve().name))} --split=test"
    return "\n\n".join(blocks) or f"**Not evaluated.** `{command}` does it; export again after that."


def _score(source: Predictor, result: dict[str, Any]) -> str:
    """One evaluated split: every protocol with its number of images, and 95 % intervals where they were computed."""
    flips = ", mean over mirror images" if result.get("flips") else ""
    height, width = result["image_size"]
    lines = [
        f"**{text(result['split'])}** of {text(result['dataset'])}, {height}x{width}, threshold {result['threshold']}, "
        f"checkpoint {result['checkpoint_step']}{flips}. Empty masks: {text(result['empty_mask_rule'])}."
    ]
    scored = (result["checkpoint_step"], result["threshold"], result.get("flips", False))
    if scored != (source.step, source.threshold, source.config.eval.flips):
        lines.append(
            f"**These are not the scores of the exported network**, which is checkpoint {source.step} at threshold "
            f"{source.threshold}, with{'' if source.config.eval.flips else 'out'} the mean over mirror images."
        )
    rows = [f"| target | protocol | n | {' | '.join(protocols.METRICS)} |", "|---" * (3 + len(protocols.METRICS)) + "|"]
    for target, block in {result["target"]: result, **result.get("targets", {})}.items():
        for protocol, meaning in protocols.PROTOCOLS.items():
            if protocol in block:
                cells = " | ".join(_cell(block[protocol][m]) for m in protocols.METRICS)
                n = block[protocol][protocols.METRICS[0]]["n"]
                rows.append(f"| {text(target)} | {text(protocol)}: {meaning} | {n} | {cells} |")
        for protocol in ("P1", "P2", "P3") if "gated" in block else ():
            cells = " | ".join(_cell(block["gated"][protocol][m]) for m in protocols.METRICS)
            n = block["gated"][protocol][protocols.METRICS[0]]["n"]
            rows.append(f"| {text(target)} | {protocol} gated: blank where not called COVID-19 | {n} | {cells} |")
    for block in (result, *result.get("targets", {}).values()):
        if "score_is" in (found := block.get("detection", {})):
            rows.append(
                f"\nCOVID-19 or not, by the {found['score_is']}: ROC AUC {_cell(found['auc'])}. Above "
                f"{found['threshold']:.4f} ({text(found['threshold_from'])}): sensitivity "
                f"{_cell(found['sensitivity'])}, specificity {_cell(found['specificity'])}."
            )
    controls = result["controls"]
    if controls["n"]:
        words = f"{controls['blank_predictions']} of {controls['n']} images with a blank truth were predicted blank."
        if "gated" in result:
            words += f" Gated: {result['gated']['controls']['blank_predictions']}."
        rows.append("\n" + words)
    return "\n\n".join([*lines, "\n".join(rows)])


def _cell(numbers: dict[str, Any]) -> str:
    value = numbers.get("mean", numbers.get("value"))
    low, high = numbers.get("ci95", (None, None))
    return f"{value:.4f}" if low is None else f"{value:.4f} [{low:.4f}, {high:.4f}]"


# Of a network with the target "covid19".
UNGATED = (
    "Infection was learnt from COVID-19 images alone: its mask says where, if the X-ray is one of COVID-19, which "
    "covid19 says. For a mask that is blank else, take covid19 above the threshold of detection."
)


def _limits(source: Predictor) -> str:
    """What depends on the targets; the limits of every network are in the template."""
    dataset = source.config.dataset
    if not finding(source.targets):
        return ""
    if spec_of(dataset).has_controls(dataset.train_config):
        words = "Other pneumonia and normal lungs were among the training images."
        return f"\n- {words} {UNGATED}" if source.answers_covid19 else f"\n- {words}"
    return "\n- It has learnt from COVID-19 images only: expect it to mark infection on lungs that have none."
