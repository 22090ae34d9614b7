import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunet import dataset, input_pipeline
from jaxunet.errors import UserError
from jaxunet.input_pipeline import ExampleSource


@pytest.fixture
def source(config) -> ExampleSource:
    builder = dataset.open_builder(config.dataset, "infection")
    return ExampleSource(builder, "train", ("infection", "lung"))


def test_split_holds_what_the_dataset_holds(config, source):
    split = input_pipeline.load_split(source, threads=3)
    assert split.image.shape == (10, 256, 256)
    assert split.arrays["mask"].shape == (10, 256, 32, 2)
    assert len(set(split.ids)) == 10
    assert set(split.labels) == {0}
    decoded = dataset.open_builder(config.dataset, "infection").as_data_source("train")
    for i, example in enumerate(decoded):
        assert split.ids[i] == example["id"].decode()
        np.testing.assert_array_equal(split.image[i], example["image"][..., 0])
        masks = np.unpackbits(split.arrays["mask"][i], axis=1)
        np.testing.assert_array_equal(masks[..., 0], example["infection_mask"][..., 0])
        np.testing.assert_array_equal(masks[..., 1], example["lung_mask"][..., 0])


def test_device_decoding_equals_the_host_arrays(source):
    split = input_pipeline.load_split(source, threads=2)
    batch = jax.jit(input_pipeline.decode)(split.part(np.arange(2)).arrays)
    np.testing.assert_allclose(batch["image"][..., 0] * 255, split.image[:2], atol=1e-4)
    np.testing.assert_array_equal(batch["target"], np.unpackbits(split.arrays["mask"][:2], axis=2))


def test_excluded_ids_are_left_out(config, source):
    builder = dataset.open_builder(config.dataset, "infection")
    gone = frozenset(source.ids[2:4])
    rest = ExampleSource(builder, "train", ("lung",), exclude=gone)
    assert len(rest) == 8
    assert not gone & set(rest.ids)
    np.testing.assert_array_equal(rest[2]["image"], source[4]["image"])


def test_missing_masks_are_named(config):
    builder = dataset.open_builder(config.dataset, "infection")
    with pytest.raises(UserError, match=r"has no tumour_mask: change dataset.targets"):
        ExampleSource(builder, "train", ("tumour",))


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_each_image_once_per_epoch_on_any_device_count(devices):
    n, batch = 10, 4
    order = np.asarray(input_pipeline.order_of_epochs(7, 0, 4, n))
    seen = []
    for step in range(10):
        for replica in range(devices):
            share = batch // devices
            start = step * batch + replica * share
            seen += order[start : start + share].tolist()
    epochs = np.array(seen).reshape(4, n)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.broadcast_to(np.arange(n), (4, n)))
    assert not np.array_equal(epochs[0], epochs[1])


def test_order_and_keys_depend_on_the_seed():
    assert not np.array_equal(input_pipeline.epoch_order(0, 0, 50), input_pipeline.epoch_order(1, 0, 50))
    positions = jnp.arange(5)
    keys = jax.random.key_data(input_pipeline.example_keys(0, positions))
    assert len(np.unique(np.asarray(keys), axis=0)) == 5
    tail = jax.random.key_data(input_pipeline.example_keys(0, positions[3:]))
    np.testing.assert_array_equal(tail, keys[3:])


def test_stream_gives_the_resident_batches(config, source):
    """Byte for byte, from any step on, over epoch boundaries."""
    split = input_pipeline.load_split(source, threads=2)
    order = np.asarray(input_pipeline.order_of_epochs(config.seed, 0, 4, len(source)))
    for start in (0, 3):
        stream = input_pipeline.stream_batches(
            source, seed=config.seed, start_step=start, total_steps=8, batch_size=4, stream=config.input
        )
        batches = list(stream)
        assert len(batches) == 8 - start
        for step, batch in enumerate(batches, start):
            expected = input_pipeline.gather(split.arrays, jnp.asarray(order[step * 4 : step * 4 + 4]))
            np.testing.assert_array_equal(batch["image"], expected["image"])
            np.testing.assert_array_equal(batch["mask"], expected["mask"])


def test_eval_batches_cover_every_image_once(source):
    split = input_pipeline.load_split(source, threads=1)
    batches = list(input_pipeline.eval_batches(split, 4))
    assert [b["image"].shape[0] for b, _ in batches] == [4, 4, 4]
    assert [valid.sum() for _, valid in batches] == [4, 4, 2]
    together = np.concatenate([b["image"][valid] for b, valid in batches])
    np.testing.assert_array_equal(together, split.image)


def test_auto_mode_streams_what_does_not_fit():
    fits = {"num_examples": 100, "image_shape": (256, 256, 1), "masks": 1}
    assert input_pipeline.use_resident("auto", **fits, limit_gib=1.0)
    assert not input_pipeline.use_resident("auto", **fits, limit_gib=0.001)
    assert input_pipeline.use_resident("resident", **fits, limit_gib=0.001)
    assert not input_pipeline.use_resident("stream", **fits, limit_gib=1.0)


def test_only_the_input_and_dataset_files_import_tfds_and_lazily():
    root = pathlib.Path(input_pipeline.__file__).parent
    for path in root.rglob("*.py"):
        text = path.read_text()
        allowed = path.parent.name == "dataset" or path.name == "input_pipeline.py"
        assert allowed or "tensorflow_datasets" not in text, path.name
        assert path.name == "parallel.py" or "jax.pmap(" not in text, path.name
        assert path.name == "checkpoint.py" or "import orbax" not in text, path.name
        assert path.parent.name == "models" or "flax.linen" not in text, path.name
