import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from jaxunet.core.errors import UserError
from jaxunet.training.optimizer import Durations, build_optimizer, build_schedule, durations


@pytest.fixture
def settings():
    return default.get_config().optimizer


LENGTH = Durations(total_steps=1000, steps_per_epoch=10.0)


def test_epochs_and_steps_give_the_same_length():
    train = default.get_config().train
    train.batch_size, train.total_epochs = 16, 3
    assert durations(train, 100) == Durations(total_steps=19, steps_per_epoch=6.25)
    train.total_epochs, train.total_steps = 0, 7
    assert durations(train, 100).total_steps == 7


def test_more_positions_than_32_bits_are_refused():
    train = default.get_config().train
    train.total_epochs, train.total_steps, train.batch_size = 0, 2**28, 8
    with pytest.raises(UserError, match=r"more than 2\^31 images"):
        durations(train, 100)


def test_step_decay_is_the_original_studys(settings):
    settings.schedule, settings.warmup_epochs, settings.learning_rate = "step", 0.0, 1e-5
    rate = build_schedule(settings, LENGTH)
    np.testing.assert_allclose([rate(s) for s in (0, 499, 500, 999)], [1e-5, 1e-5, 0.5e-5, 0.5e-5], rtol=1e-6)


def test_cosine_warms_up_and_ends_at_its_fraction(settings):
    settings.learning_rate, settings.warmup_epochs, settings.final_fraction = 1.0, 2.0, 0.1
    rate = build_schedule(settings, LENGTH)
    np.testing.assert_allclose([rate(0), rate(9), rate(19)], [0.05, 0.5, 1.0], rtol=1e-4)
    np.testing.assert_allclose(rate(20 + 490), 0.55, rtol=1e-4)
    np.testing.assert_allclose(rate(1000), 0.1, rtol=1e-4)


def test_constant_stays(settings):
    settings.schedule, settings.warmup_epochs = "constant", 0.0
    rate = build_schedule(settings, LENGTH)
    assert float(rate(0)) == float(rate(999)) == pytest.approx(2e-3)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_decay_touches_kernels_only_and_clipping_bounds_the_step(name, settings):
    settings.name, settings.clip_norm = name, 1.0
    params = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones((2,))}
    tx = build_optimizer(settings, lambda _: 0.1)
    zero = {k: jnp.zeros_like(v) for k, v in params.items()}
    updates, _ = tx.update(zero, tx.init(params), params)
    assert float(jnp.abs(updates["scale"]).max()) == 0
    assert (float(jnp.abs(updates["kernel"]).max()) > 0) == (name != "adam")
    huge = {k: jnp.full_like(v, 1e6) for k, v in params.items()}
    updates, _ = tx.update(huge, tx.init(params), params)
    assert float(jnp.abs(updates["kernel"]).max()) < 0.3


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_encoder_has_a_rate_of_its_own(rate, settings):
    settings.encoder_rate = rate
    params = {"encoder": {"kernel": jnp.ones((2, 2))}, "head": {"kernel": jnp.ones((2, 2))}}
    tx = build_optimizer(settings, lambda _: 0.1)
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["encoder"]["kernel"], rate * updates["head"]["kernel"], rtol=1e-6)
    assert float(jnp.abs(updates["head"]["kernel"]).min()) > 0
