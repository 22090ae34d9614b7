"""The target "covid19": a probability for the whole image beside the masks, from the loss to the written files."""

import base64
import csv
import dataclasses
import functools
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import default
from jaxunet.core.errors import UserError
from jaxunet.devices import replicas
from jaxunet.evaluation import evaluate
from jaxunet.export import export
from jaxunet.export.formats import FORMATS
from jaxunet.models.build import build_model
from jaxunet.prediction import folder, loading
from jaxunet.prediction.measures import measure
from jaxunet.runs import checks, config_file
from jaxunet.runs.metric_log import read_metrics
from jaxunet.scoring import detection, losses, split_pass
from jaxunet.scoring.counts import batch_dice
from jaxunet.scoring.detection import Rule
from jaxunet.training import loop
from jaxunet.training.step import augmented_batch
from jaxunet.training.task import build_task

TARGETS = ("infection", "lung", "covid19")


@pytest.fixture(scope="module")
def config(make_config):
    config = make_config()
    config.dataset.train_config, config.dataset.targets = "infection_all", TARGETS
    config.train.total_steps = 4
    return config


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    """A run of four steps, evaluated on Val and Test."""
    workdir = tmp_path_factory.mktemp("covid19")
    loop.train(config, workdir)
    for split in ("val", "test"):
        evaluate.evaluate(config, workdir, split=split, checkpoint="latest")
    return workdir


@pytest.fixture
def network(config, workdir):
    return loading.load(config, workdir, checkpoint="latest")


def outputs_and_target():
    rng = np.random.default_rng(0)
    masks = (rng.random((4, 8, 8, 2)) < 0.4).astype(np.float32)
    masks[[1, 3], ..., 0] = 0
    outputs = {"masks": rng.standard_normal((4, 8, 8, 2)), "covid19": rng.standard_normal(4)}
    target = {"masks": masks, "covid19": np.array([1, 0, 1, 0])}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (outputs, target))


def test_loss_equals_its_formula():
    outputs, target = outputs_and_target()
    loss = default.get_config().loss
    one = losses.build_loss(loss, ("infection",))
    answer, p = np.asarray(target["covid19"]), 1 / (1 + np.exp(-np.asarray(outputs["covid19"])))
    bce = -np.log(np.where(answer == 1, p, 1 - p))
    infection, lung = (one(*({"masks": x["masks"][..., i : i + 1]} for x in (outputs, target))) for i in (0, 1))
    expected = (answer * infection / 0.25 + lung + bce) / 3
    found = losses.build_loss(loss, TARGETS, covid19_share=0.25)(outputs, target)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_controls_teach_nothing_about_where_infection_is():
    outputs, target = outputs_and_target()
    loss = losses.build_loss(default.get_config().loss, TARGETS)
    gradient = jax.grad(lambda x: loss(x, target).sum())(outputs)
    assert not gradient["masks"][1::2, ..., 0].any()
    assert gradient["masks"][::2, ..., 0].any(axis=(1, 2)).all()
    assert gradient["masks"][..., 1].any(axis=(1, 2)).all()
    assert gradient["covid19"].all()


def test_training_dice_is_of_covid19_images():
    outputs, target = outputs_and_target()
    expected = batch_dice(*({"masks": x["masks"][::2]} for x in (outputs, target)))
    assert expected[1] == 2
    np.testing.assert_allclose(batch_dice(outputs, target), expected, rtol=1e-6)
    controls = (jax.tree.map(lambda x: x[1::2], tree) for tree in (outputs, target))
    assert not batch_dice(*controls).any()


def test_detection_rates_count_images():
    called, covid = np.array([True, False, True, True, False]), np.array([True, True, True, False, False])
    assert detection.detection_rates(called, covid) == {"sensitivity": 2 / 3, "specificity": 0.5}
    assert detection.detection_rates(called[:3], covid[:3]) == {"sensitivity": 2 / 3}


@pytest.mark.parametrize("name", ["unet", "resnet_unet"])
def test_networks_have_an_answer_besides_their_masks(name, config):
    settings = config.model.copy_and_resolve_references()
    with settings.unlocked():
        settings.name, settings.depth = name, 18
    with_answer, without = (build_model(settings, t, axis_name=None) for t in (TARGETS, TARGETS[:2]))
    image = jax.ShapeDtypeStruct((3, 64, 32, 1), jnp.float32)
    (found, variables), (masks, fewer) = (
        jax.eval_shape(functools.partial(m.init_with_output, train=False), jax.random.key(0), image)
        for m in (with_answer, without)
    )
    answer = found.pop("covid19")
    assert found == masks
    assert (masks["masks"].shape, answer.shape, answer.dtype) == ((3, 64, 32, 2), (3,), jnp.float32)
    assert variables["params"].keys() - fewer["params"].keys() == {"covid19"}


def test_answer_is_one_number_per_image(config):
    image = jax.random.uniform(jax.random.key(1), (3, 64, 32, 1))
    with_answer, without = (build_model(config.model, t, axis_name=None) for t in (TARGETS, TARGETS[:2]))
    variables = jax.jit(functools.partial(with_answer.init, train=False))(jax.random.key(0), image)
    outputs = jax.jit(functools.partial(with_answer.apply, train=False))(variables, image)
    assert len(set(np.asarray(outputs["covid19"]))) == 3
    rest = {"params": {k: v for k, v in variables["params"].items() if k != "covid19"}} | {
        k: v for k, v in variables.items() if k != "params"
    }
    masks = jax.jit(functools.partial(without.apply, train=False))(rest, image)["masks"]
    np.testing.assert_allclose(outputs["masks"], masks, atol=1e-5)


def test_augmentation_leaves_the_answer_alone(config):
    raw = {
        "image": np.full((4, 32, 32), 128, np.uint8),
        "mask": np.full((4, 32, 4, 2), 255, np.uint8),
        "covid19": np.array([1, 0, 0, 1], np.uint8),
    }
    target = augmented_batch(raw, jnp.arange(4), seed=0, augment=config.augment)["target"]
    assert target["masks"].shape == (4, 32, 32, 2)
    assert not target["masks"][..., 0].all()  # moved: black borders
    np.testing.assert_array_equal(target["covid19"], raw["covid19"])


def test_validation_logs_detection(config, workdir, network):
    data = split_pass.load_eval_split(config, "val")
    logits, covid = network.outputs(data.image), data.positive
    variables = jax.device_get(network.variables)
    shift = np.median(logits["covid19"])  # so that some images are called COVID-19
    variables["params"]["covid19"]["fc"]["bias"] = variables["params"]["covid19"]["fc"]["bias"] - shift
    validate = build_task(config).validate
    found = validate(replicas.replicate(variables), lambda: False)
    row = found.values
    assert {*row} <= {*[row for row in read_metrics(workdir) if "val/P1/dice" in row][-1]}
    assert found.rank_value == row["val/P1/dice"]
    assert f"gated P3 Dice {row['val/gated/P3/dice']:.4f}" in found.words
    called = logits["covid19"] > shift
    assert 0 < called.sum() < len(called)
    assert row["val/covid19/sensitivity"] == called[covid].mean()
    assert row["val/covid19/specificity"] == pytest.approx(1 - called[~covid].mean())
    predicted, truth = (
        (logits["masks"][..., 0] > 0) & called[:, None, None],
        np.stack([data.truth(i) for i in range(len(covid))]),
    )
    overlap, sizes = ((predicted & truth).sum(axis=(1, 2)), predicted.sum(axis=(1, 2)) + truth.sum(axis=(1, 2)))
    dice = np.where(sizes > 0, 2 * overlap / np.maximum(sizes, 1), 1)
    assert row["val/gated/P3/dice"] == pytest.approx(dice.mean(), abs=1e-3)


def test_evaluation_decides_by_the_probability(config, workdir, network):
    val, test = (json.loads((workdir / "eval" / s / "metrics.json").read_text()) for s in ("val", "test"))
    assert val["target"] == "infection"
    assert set(val["targets"]) == {"lung"}
    data = split_pass.load_eval_split(config, "val")
    score = 1 / (1 + np.exp(-network.outputs(data.image)["covid19"].astype(np.float64)))
    found, covid = val["detection"], data.positive
    assert found["score"] == "probability"
    assert found["sensitivity"]["mean"] == np.mean(score[covid] > found["threshold"])
    assert found["specificity"]["mean"] == np.mean(score[~covid] <= found["threshold"])
    assert val["gated"]["blanked"]["n"] == np.sum(score <= found["threshold"])
    assert test["detection"]["threshold"] == found["threshold"]
    assert network.rule == Rule("probability", found["threshold"], "chosen on val")
    with (workdir / "eval/val/per_image.csv").open() as file:
        rows = {row["id"]: row for row in csv.DictReader(file) if row["target"] == "infection"}
    for name, p in zip(data.ids, score, strict=True):
        assert float(rows[name]["covid19_probability"]) == pytest.approx(p, abs=1e-6)


@pytest.mark.parametrize("gate", [True, False])
def test_predict_marks_nothing_where_it_is_not_covid19(gate, config, workdir, tmp_path):
    data = split_pass.load_eval_split(config, "test")
    for i, image in enumerate(data.image):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    config = config_file.load(workdir)
    config.eval.gate, config.eval.threshold = gate, 0.01  # so that every pixel is marked
    network = loading.load(config, workdir, checkpoint="latest")
    p = 1 / (1 + np.exp(-network.outputs(data.image)["covid19"].astype(np.float64)))
    middle = float(np.mean(np.sort(p)[len(p) // 2 - 1 : len(p) // 2 + 1]))
    network = dataclasses.replace(network, rule=Rule("probability", middle, "a test"))
    out = tmp_path / "out"
    assert folder.predict(network, str(tmp_path), out, probabilities=False) == 0
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["covid19_detected"] for row in rows} == {"True", "False"}
    for i, row in enumerate(sorted(rows, key=lambda row: row["input"])):
        assert float(row["covid19_probability"]) == pytest.approx(p[i], abs=1e-4)
        assert row["covid19_detected"] == str(p[i] > middle)
        blank = gate and p[i] <= middle
        assert (np.asarray(Image.open(out / f"masks/{i}_infection.png")) > 0).any() == (not blank)
        assert (float(row["infected_pixels"]) == 0) == blank
        assert (np.asarray(Image.open(out / f"masks/{i}_lung.png")) > 0).any()
    assert not (out / "masks/0_covid19.png").exists()


@pytest.mark.parametrize("gate", [True, False])
def test_serve_marks_nothing_where_it_is_not_covid19(gate, workdir):
    serve = pytest.importorskip("jaxunet.prediction.serve")
    config = config_file.load(workdir)
    config.eval.gate, config.eval.threshold = gate, 0.01
    network = loading.load(config, workdir, checkpoint="latest")
    network = dataclasses.replace(network, rule=Rule("probability", 1.0, "a test"))
    image = io.BytesIO()
    Image.fromarray(split_pass.load_eval_split(config, "test").image[0]).save(image, "png")
    found = serve.answer(network, image.getvalue())
    assert found["row"]["covid19_detected"] is False
    assert 0 < found["row"]["covid19_probability"] < 1
    assert (found["row"]["infected_pixels"] == 0) == gate
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["masks"]["infection"]))))
    assert mask.any() != gate


@pytest.mark.parametrize("format", ["stablehlo", "onnx", "safetensors"])
def test_exported_files_answer_too(format, network, workdir, tmp_path):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    row = FORMATS[format]
    row.write(network, export.describe(network, network.config), tmp_path / "file")
    images = np.random.default_rng(0).integers(0, 256, (3, 256, 256), np.uint8)
    found = {k: np.asarray(x) for k, x in row.read(network, tmp_path / "file")(images).items()}
    logits = network.outputs(images)
    assert found["probability"].shape == found["mask"].shape == (3, 256, 256, 2)
    np.testing.assert_allclose(found["probability"], 1 / (1 + np.exp(-logits["masks"])), atol=1e-4)
    np.testing.assert_allclose(found["covid19"], 1 / (1 + np.exp(-logits["covid19"])), atol=1e-4)
    if format == "safetensors":
        assert loading.load_safetensors(tmp_path / "file").rule == network.rule
        other = loading.load_safetensors(tmp_path / "file", {"eval.threshold": 0.3})  # of pixels: not of the rule
        assert other.rule == network.rule
        flipped = loading.load_safetensors(tmp_path / "file", {"eval.flips": True})
        assert flipped.rule.threshold == 0.5


def test_the_more_likely_answer_counts_until_a_threshold_is_chosen():
    rule = Rule.not_chosen(answers=True)
    measures = measure(np.ones((8, 8), bool), None)
    assert rule.calls_xray(measures, 0.6)
    assert not rule.calls_xray(measures, 0.5)
    assert str(rule) == "COVID-19 if its probability is above 0.5000"


@pytest.mark.parametrize(
    ("targets", "train_config", "model", "words"),
    [
        (("covid19", "infection"), "infection_all", "unet", "must begin with .* and end with"),
        (("lung", "covid19"), "infection_all", "unet", "must begin with 'infection' and end"),
        (("lung", "infection", "covid19"), "infection_all", "unet", "must begin with 'infection' and end"),
        (("covid19",), "infection_all", "unet", "must name"),
        (("infection", "covid19"), "infection", "unet", "train_config='infection_all'"),
        (("infection", "covid19"), "infection_all", "separable_unet", "separable_unet"),
    ],
)
def test_what_cannot_be_learnt_is_refused(targets, train_config, model, words, make_config):
    config = make_config()
    config.dataset.targets, config.dataset.train_config, config.model.name = targets, train_config, model
    with pytest.raises(UserError, match=words):
        checks.check(config)


def test_weights_alone_may_be_exported_with_flips(workdir, tmp_path):
    config = config_file.load(workdir)
    config.eval.flips = True
    original = loading.load(config, workdir, checkpoint="latest")
    export.export([original], format="safetensors", output=tmp_path / "flipped")
    loaded = loading.load_safetensors(tmp_path / "flipped")
    images = np.random.default_rng(0).integers(0, 256, (2, 256, 256), np.uint8)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-5), *(p.outputs(images) for p in (loaded, original))
    )
    assert loaded.config.eval.flips
    with pytest.raises(UserError, match="add --config.eval.flips=False"):
        export.export([original], format="torch", output=tmp_path / "flipped.pth")


def test_no_torch_file_without_its_answer(network, tmp_path):
    with pytest.raises(UserError, match="covid19"):
        FORMATS["torch"].write(network, {}, tmp_path / "file")
