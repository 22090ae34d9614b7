"""Pretraining an encoder by classification, on a small synthetic set of vertical and horizontal stripes."""

import pathlib

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from configs import classify
from jaxunet.core.errors import UserError
from jaxunet.data.labelled_images import LabelledImages
from jaxunet.evaluation.evaluate import evaluate
from jaxunet.runs import checks
from jaxunet.runs.checkpoint import Checkpoints
from jaxunet.runs.metric_log import read_metrics
from jaxunet.training import initialize, loop
from jaxunet.training.state import create_train_state
from jaxunet.training.task import build_task

CLASSES = ("lying", "standing")


def stripes(rng: np.random.Generator, label: int) -> np.ndarray:
    """uint8 [48, 40, 3]: stripes of random width and phase, with noise."""
    wave = np.sin(np.arange(64) / rng.uniform(1.2, 2.5) + rng.uniform(0, 6))
    image = np.tile(wave[:48, None], (1, 40)) if label == 0 else np.tile(wave[None, :40], (48, 1))
    gray = 128 + 70 * image + rng.normal(0, 25, image.shape)
    return np.repeat(np.clip(gray, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("stripes")
    for split, n in (("train", 32), ("val", 10)):
        rng = np.random.default_rng(n)
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(n // 2):
                Image.fromarray(stripes(rng, label)).save(root / split / name / f"{i}.png")
    (root / "train" / "lying" / "notes.txt").write_text("not an image")
    return root


class Stripes(tfds.core.GeneratorBasedBuilder):
    """A dataset like ImageNet in TFDS: `image` of any size, `label` with names, splits train and validation."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=CLASSES)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._examples("train"), "validation": self._examples("val")}

    def _examples(self, split):
        for path in sorted((self.folder / split).rglob("*.png")):
            yield str(path.relative_to(self.folder)), {"image": path, "label": path.parent.name}

    def _generate_examples(self):
        raise NotImplementedError


@pytest.fixture
def config(make_config, folders):
    config, small = classify.get_config(), make_config()
    config.dataset.source, config.dataset.image_size = str(folders), 32
    config.model = small.model
    config.train = small.train
    config.train.batch_size, config.train.total_steps, config.train.ema_decay = 8, 32, 0.9
    config.train.eval_every_epochs = 3.0
    config.eval.batch_size = 4
    config.optimizer.learning_rate, config.optimizer.warmup_epochs = 1e-2, 1.0
    return config


def test_an_encoder_learns_classes_and_hands_itself_over(config, make_config, tmp_path, capsys):
    """The whole path: folders -> training -> accuracy -> the encoder of a segmentation network."""
    checks.check(config)
    assert loop.train(config, tmp_path / "classes")
    rows = read_metrics(tmp_path / "classes")
    assert [r["val/accuracy"] for r in rows if "val/accuracy" in r][-1] >= 0.9
    assert [r["train/accuracy"] for r in rows if "train/accuracy" in r][-1] >= 0.7
    assert "validation accuracy" in capsys.readouterr().out
    with pytest.raises(UserError, match="learnt classes, not masks"):
        evaluate(config, tmp_path / "classes", split="val", checkpoint="latest")

    segment = make_config()
    segment.init.run = str(tmp_path / "classes")
    task = build_task(segment)
    tx = loop.build_optimizer(segment.optimizer, lambda _: 0.0)
    fresh = create_train_state(task.model, tx, seed=1, image_shape=task.source.image_shape, ema=True)
    state, words = initialize.initial_state(segment, jax.device_get(fresh))
    with Checkpoints(tmp_path / "classes", config.checkpoint) as checkpoints:
        learnt = checkpoints.restore_weights(32)
    jax.tree.map(np.testing.assert_array_equal, state.params["encoder"], learnt["params"]["encoder"])
    jax.tree.map(np.testing.assert_array_equal, state.batch_stats["encoder"], learnt["batch_stats"]["encoder"])
    jax.tree.map(np.testing.assert_array_equal, state.params["decoder"], fresh.params["decoder"])
    assert "from step 32 of" in words


def test_a_prepared_tfds_dataset_holds_the_same_examples(folders, tmp_path):
    Stripes.folder = folders
    builder = Stripes(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    for split, n in (("train", 32), ("val", 10)):
        from_files = LabelledImages(str(folders), split, image_size=32)
        prepared = LabelledImages(str(builder.data_dir), split, image_size=32)
        assert len(prepared) == len(from_files) == n
        assert prepared.classes == from_files.classes == list(CLASSES)
        examples = [
            {(e["label"].item(), e["image"].tobytes()) for e in map(data.__getitem__, range(n))}
            for data in (prepared, from_files)
        ]
        assert examples[0] == examples[1]
        assert len(examples[0]) == n


def test_bad_folders_are_sentences(tmp_path, folders):
    for source in ("nowhere", ""):
        with pytest.raises(UserError, match=f"dataset.source='{source}' is not a local folder"):
            LabelledImages(source, "train", image_size=32)
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match="has no images in its split 'train'"):
        LabelledImages(str(tmp_path), "train", image_size=32)
    with pytest.raises(UserError, match="has no split val or validation or test: there are train"):
        LabelledImages(str(tmp_path), "val", image_size=32)
    (tmp_path / "train" / "a" / "x.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"train/a/x.png cannot be read as an image"):
        LabelledImages(str(tmp_path), "train", image_size=32)[0]
