"""Two simulated CPU devices and strict array rules for every test; a small synthetic dataset, built once."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"
if worker := os.environ.get("PYTEST_XDIST_WORKER") if hasattr(os, "sched_getaffinity") else None:
    cores = sorted(os.sched_getaffinity(0))  # a core for each: sharing both, XLA's threads wait
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

import pathlib
from collections.abc import Callable, Iterator

import jax
import pytest
from ml_collections import ConfigDict

from configs import default
from jaxunet.training import loop

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def strict_dtypes() -> Iterator[None]:
    """No implicit dtype promotion; for code without Optax and batch normalisation, which rely on it."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="session", autouse=True)
def program_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests that train the same network compile it once."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder  # shared by the workers
    jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Where the synthetic datasets of the tests are built, once per session."""
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="session")
def make_config(data_dir: pathlib.Path) -> Callable[[], ConfigDict]:
    """Makes complete configs of seconds: ten synthetic X-rays, a network of a few thousand parameters."""

    def make() -> ConfigDict:
        config = default.get_config()
        config.dataset.name = "synthetic_cxr"
        config.dataset.data_dir = str(data_dir)
        config.dataset.synthetic.train = 10
        config.dataset.synthetic.val = 3
        config.dataset.synthetic.test = 2
        config.model.channels = (4, 8)
        config.model.stem = 4
        config.model.dtype = "float32"
        config.train.batch_size = 4
        config.train.total_epochs = 0
        config.train.total_steps = 6
        config.train.eval_every_epochs = 1.0
        config.train.log_every_steps = 2
        config.eval.batch_size = 4
        config.eval.overlays = 1
        return config

    return make


@pytest.fixture
def config(make_config: Callable[[], ConfigDict]) -> ConfigDict:
    return make_config()


@pytest.fixture(scope="session")
def finished_config(make_config: Callable[[], ConfigDict]) -> ConfigDict:
    config = make_config()
    config.profile = True
    return config


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, finished_config: ConfigDict) -> pathlib.Path:
    """Workdir of a run of six steps without interruption."""
    workdir = tmp_path_factory.mktemp("run")
    loop.train(finished_config, workdir)
    return workdir
