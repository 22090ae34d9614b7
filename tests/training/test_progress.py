"""Means, speed, utilisation and the warning about slow input, on invented calls."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from jaxunet.models.build import build_model
from jaxunet.training.optimizer import Durations
from jaxunet.training.progress import Progress
from jaxunet.training.step import flops_per_image


class Notes:
    """Replaces the metric writer."""

    def __init__(self):
        self.rows, self.messages, self.shown = [], [], {}

    def write(self, step, values):
        self.rows.append((step, values))

    def show(self, **values):
        self.shown = values

    def message(self, text):
        self.messages.append(text)


def progress(notes, *, patience=0, **flops):
    config = default.get_config()
    config.train.patience_evals = patience
    return Progress(
        notes,
        config,
        watched_metric="dice",
        schedule=lambda step: 0.1 * (step + 1),
        length=Durations(total_steps=100, steps_per_epoch=10.0),
        ids_of_step=lambda step: [f"image{i}" for i in range(10)],
        state={},
        **({"flops_per_image": None, "peak_flops": None} | flops),
    )


def call(steps=2, loss=1.0, scored=4):
    sums = {"loss": loss * steps, "score_sum": 0.5 * scored, "score_count": scored, "grad_norm": 3.0 * steps}
    return {k: jnp.float32(v) for k, v in sums.items()} | {"steps": jnp.int32(steps), "bad_step": jnp.int32(-1)}


def test_means_are_over_steps_not_calls():
    notes = Notes()
    p = progress(notes, flops_per_image=2e9, peak_flops=1e12)
    p.record(call(steps=1, loss=1.0), was_idle=False)
    p.record(call(steps=3, loss=5.0), was_idle=False)
    p.log(4)
    ((step, values),) = notes.rows
    assert (step, values["epoch"], values["train/loss"], values["train/dice"]) == (4, 0.4, 4.0, 0.5)
    assert values["train/learning_rate"] == pytest.approx(0.4)
    per_device = values["images_per_second"] / jax.device_count()
    assert values["model_flops_utilisation"] == pytest.approx(per_device * 2e9 / 1e12)
    assert notes.shown["mfu"].endswith("%")
    assert not notes.messages
    p.log(4)
    assert len(notes.rows) == 1


def test_the_score_is_a_mean_over_the_images_that_have_one():
    notes = Notes()
    p = progress(notes)
    for scored in (6, 0, 2):  # for example COVID-19 images in a batch
        p.record(call(scored=scored), was_idle=False)
    p.log(6)
    p.record(call(scored=0), was_idle=False)
    p.log(8)
    assert [values.get("train/dice") for _, values in notes.rows] == [0.5, None]


@pytest.mark.parametrize(
    ("scores", "stops"),
    [
        ([0.5, 0.5, 0.5], [False, False, True]),  # equal to the best is not better
        ([0.5, 0.4, 0.45], [False, False, True]),  # better than the last one is not better than the best
        ([0.5, 0.4, 0.6, 0.5, 0.6], [False, False, False, False, True]),
        ([0.0, 0.1, 0.2, 0.3], [False] * 4),
        ([0.0, 0.0, 0.0], [False, False, True]),  # the first validation always counts as better
    ],
)
def test_patience_counts_validations_that_are_not_better(scores, stops):
    patient, endless = progress(Notes(), patience=2), progress(Notes())
    for step, (score, expected) in enumerate(zip(scores, stops, strict=True), 1):
        for p in (patient, endless):
            p.validated(step, score)
            assert (p.validated_step, p.state()["best_score"]) == (step, max(scores[:step]))
        assert (patient.stops_improving, endless.stops_improving) == (expected, False)


@pytest.mark.parametrize(("idle", "warned"), [([True, False, True, True], True), ([False] * 4, False)])
def test_a_waiting_device_is_reported_once(idle, warned):
    notes = Notes()
    p = progress(notes)
    for step in (4, 8):
        for was_idle in idle:
            p.record(call(), was_idle=was_idle)
        p.log(step)
    assert [m.startswith("input-bound: at 75 % of the steps") for m in notes.messages] == [True] * warned


def test_flops_of_a_small_network():
    """One level: 3 x 3 convolutions 1 -> 4 and 4 -> 4, a head 4 -> 1. Borders and additions are negligible."""
    settings = default.get_config().model
    settings.channels, settings.stem, settings.dtype = (4,), 1, "float32"
    model = build_model(settings, ("infection",), axis_name=None)
    shape = (64, 64, 1)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, *shape)))
    expected = 3 * 64 * 64 * 2 * (9 * 4 + 9 * 16 + 4)
    np.testing.assert_allclose(flops_per_image(model, variables, shape), expected, rtol=0.15)


def test_flops_do_not_count_the_zeros_of_patches():
    settings = default.get_config().model
    settings.name, settings.depth, settings.dtype = "resnet_unet", 18, "float32"
    counts = []
    for settings.layout in ("plain", "patches"):
        model = build_model(settings, ("infection",), axis_name=None)
        init = functools.partial(model.init, train=False)
        variables = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
        counts.append(flops_per_image(model, variables, (64, 64, 1)))
    assert counts[0] == counts[1]
