import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunet.core.errors import UserError
from jaxunet.data import batches, order, prepared
from jaxunet.data.batches import eval_batches, gather, stream_batches
from jaxunet.data.examples import ExampleSource, load_split
from jaxunet.data.order import order_of_epochs
from tests.support.fake_archive import ROOT, fake_files, png, write_zip


@pytest.fixture
def source(config) -> ExampleSource:
    builder = prepared.open_builder(config.dataset, "infection")
    return ExampleSource(builder, "train", ("infection", "lung"))


def test_split_holds_what_the_dataset_holds(config, source):
    split = load_split(source, threads=3)
    assert split.image.shape == (10, 256, 256)
    assert split.arrays["mask"].shape == (10, 256, 32, 2)
    assert len(set(split.ids)) == 10
    assert set(split.labels) == {0}
    decoded = prepared.open_builder(config.dataset, "infection").as_data_source("train")
    for i, example in enumerate(decoded):
        assert split.ids[i] == example["id"].decode()
        np.testing.assert_array_equal(split.image[i], example["image"][..., 0])
        masks = np.unpackbits(split.arrays["mask"][i], axis=1)
        np.testing.assert_array_equal(masks[..., 0], example["infection_mask"][..., 0])
        np.testing.assert_array_equal(masks[..., 1], example["lung_mask"][..., 0])


def test_device_decoding_equals_the_host_arrays(source):
    split = load_split(source, threads=2)
    batch = jax.jit(batches.decode)(split.part(np.arange(2)).arrays)
    np.testing.assert_allclose(batch["image"][..., 0] * 255, split.image[:2], atol=1e-4)
    np.testing.assert_array_equal(batch["target"]["masks"], np.unpackbits(split.arrays["mask"][:2], axis=2))


def test_reduced_images_are_rounded_means_and_half_full_blocks_are_set(config, tmp_path):
    """Pixel by pixel at 64: of 4 x 4 pixels an image has the mean, and a mask is 1 where 8 or more are set."""
    files = fake_files(per_class=1)
    set_pixels = np.random.default_rng(0).permuted(np.arange(16) < np.arange(4096)[:, None] % 17, axis=1)
    mask = set_pixels.reshape(64, 64, 4, 4).transpose(0, 2, 1, 3).reshape(256, 256)  # every number of pixels, anywhere
    folder = f"{ROOT}/Train/COVID-19"
    files[f"{folder}/infection masks/covid_1.png"] = png(mask.astype(np.uint8) * 255)
    image = np.random.default_rng(1).integers(0, 256, (256, 256), np.uint8)
    files[f"{folder}/images/covid_1.png"] = png(image)
    config.dataset.name, config.dataset.data_dir = "covid_qu_ex", str(tmp_path / "data")
    config.dataset.source = str(write_zip(tmp_path / "a.zip", files))
    builder = prepared.open_builder(config.dataset, "infection")
    source = ExampleSource(builder, "train", ("infection",), image_size=64)
    assert source.image_shape == (64, 64, 1)
    raw = source[0]
    reduced = np.unpackbits(raw["mask"][..., 0], axis=1)
    seen = set()
    for y, x in np.ndindex(64, 64):
        block = (slice(4 * y, 4 * y + 4), slice(4 * x, 4 * x + 4))
        inside, total = int(mask[block].sum()), int(image[block].sum())
        assert reduced[y, x] == (inside >= 8), (y, x, inside)
        assert raw["image"][y, x] == round(total / 16), (y, x)
        seen.add(inside)
    assert seen == set(range(17))


def test_excluded_ids_are_left_out(config, source):
    builder = prepared.open_builder(config.dataset, "infection")
    gone = frozenset(source.ids[2:4])
    rest = ExampleSource(builder, "train", ("lung",), exclude=gone)
    assert len(rest) == 8
    assert not gone & set(rest.ids)
    np.testing.assert_array_equal(rest[2]["image"], source[4]["image"])


def test_missing_masks_are_named(config):
    builder = prepared.open_builder(config.dataset, "infection")
    with pytest.raises(UserError, match=r"has no tumour_mask: change dataset.targets"):
        ExampleSource(builder, "train", ("tumour",))


def test_order_and_keys_depend_on_the_seed():
    assert not np.array_equal(order.epoch_order(0, 0, 50), order.epoch_order(1, 0, 50))
    positions = jnp.arange(5)
    keys = jax.random.key_data(order.example_keys(0, positions))
    assert len(np.unique(np.asarray(keys), axis=0)) == 5
    tail = jax.random.key_data(order.example_keys(0, positions[3:]))
    np.testing.assert_array_equal(tail, keys[3:])


def test_stream_gives_the_resident_batches(config, source):
    """Byte for byte, from any step on, over epoch boundaries."""
    split = load_split(source, threads=2)
    order = np.asarray(order_of_epochs(config.seed, 0, 4, len(source)))
    for start in (0, 3):
        stream = stream_batches(
            source, seed=config.seed, start_step=start, total_steps=8, batch_size=4, stream=config.input
        )
        batches = list(stream)
        assert len(batches) == 8 - start
        for step, batch in enumerate(batches, start):
            expected = gather(split.arrays, jnp.asarray(order[step * 4 : step * 4 + 4]))
            np.testing.assert_array_equal(batch["image"], expected["image"])
            np.testing.assert_array_equal(batch["mask"], expected["mask"])


def test_eval_batches_cover_every_image_once(source):
    split = load_split(source, threads=1)
    batches = list(eval_batches(split.arrays, 4))
    assert [b["image"].shape[0] for b, _ in batches] == [4, 4, 4]
    assert [valid.sum() for _, valid in batches] == [4, 4, 2]
    together = np.concatenate([b["image"][valid] for b, valid in batches])
    np.testing.assert_array_equal(together, split.image)


def test_auto_mode_streams_what_does_not_fit():
    fits = {"num_examples": 100, "image_shape": (256, 256, 1), "masks": 1}
    assert batches.use_resident("auto", **fits, limit_gib=1.0)
    assert not batches.use_resident("auto", **fits, limit_gib=0.001)
    assert batches.use_resident("resident", **fits, limit_gib=0.001)
    assert not batches.use_resident("stream", **fits, limit_gib=1.0)
