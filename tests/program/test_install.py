"""The wheel, built from the source distribution, works in an empty folder outside the clone."""

import importlib.metadata
import os
import pathlib
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from PIL import Image

import jaxunet
from jaxunet.commands import MODES
from jaxunet.data.drawing import draw_chest_xray
from tests.support.clone import copy_clone

ROOT = pathlib.Path(__file__).parents[2]
MINE = """
from jaxunet.configs import demo


def get_config():
    config = demo.get_config()
    config.train.total_epochs = 1
    return config
"""
SMALL = (
    *(f"--config.dataset.synthetic.{count}" for count in ("train=4", "val=2", "test=2")),
    *("--config.model.channels=(4,8)", "--config.train.batch_size=2", "--config.eval.batch_size=2"),
    "--config.dataset.image_size=32",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the content of the wheel and nothing else of jaxunet. Other libraries are those of the tests."""
    try:
        newest = int(importlib.metadata.version("setuptools").split(".")[0])
    except importlib.metadata.PackageNotFoundError:
        newest = 0
    if newest < 77:
        pytest.skip("building needs setuptools 77 or newer: pip install -c constraints.txt '.[test]'")
    folder = tmp_path_factory.mktemp("install")
    copy_clone(folder / "clone")  # a build leaves folders behind
    build = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    sdist = run([sys.executable, "-c", build, folder], folder / "clone").stdout.split()[-1]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, folder / sdist], folder)
    (wheel,) = folder.glob("*.whl")
    run([*pip, "install", "--no-deps", "--no-index", "--target", folder / "site", wheel], folder)
    return folder / "site"


def run(command: list, cwd: pathlib.Path, *, status: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PYTHONPATH")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture
def command(site, tmp_path):
    """Runs `jaxunet` with these arguments, or another program, in an empty folder."""
    (tmp_path / "empty").mkdir()

    def start(*words: object, program: tuple = (site / "bin/jaxunet",), status: int = 0) -> subprocess.CompletedProcess:
        return run(
            [*program, *words],
            tmp_path / "empty",
            status=status,
            PYTHONPATH=str(site),
            JAX_COMPILATION_CACHE_DIR=str(tmp_path),
        )

    return start


def test_wheel_has_every_file_of_the_program(site):
    """It has nothing of the tests; `jaxunet.configs` is configs/."""
    folders = {"jaxunet": site / "jaxunet", "configs": site / "jaxunet/configs"}
    for name, installed in folders.items():
        files = [p.relative_to(ROOT / name) for p in (ROOT / name).rglob("*") if p.is_file()]
        wanted = {str(p) for p in files if "__pycache__" not in p.parts}
        assert len(wanted) > 6
        assert not {p for p in wanted if not (installed / p).is_file()}
    (info,) = site.glob("jaxunet-*.dist-info")
    assert {p.name for p in site.iterdir()} == {"jaxunet", "bin", info.name}
    assert {p.name for p in (info / "licenses").iterdir()} == {"LICENSE", "NOTICE"}
    assert "Requires-Python: >=3.11" in (info / "METADATA").read_text()


def test_python_in_an_empty_folder(site, command, tmp_path):
    Image.fromarray(draw_chest_xray(0, 0, "test", "COVID-19")[0]).save(tmp_path / "empty/patient.png")
    code = """
import jaxunet, sys
assert "jax" not in sys.modules
print(jaxunet.__version__)
p = jaxunet.load().predict("patient.png")
print(p.masks["infection"].shape)
print(*[m.__file__ for n, m in sys.modules.items() if n.startswith("jaxunet.") and m.__file__], sep="\\n")
"""
    version, shape, *files = command("-c", code, program=(sys.executable,)).stdout.splitlines()
    assert version == jaxunet.__version__
    assert shape == "(256, 256)"
    assert len(files) > 20
    assert not [path for path in files if not pathlib.Path(path).is_relative_to(site)]


def test_predict_in_an_empty_folder(command, tmp_path):
    Image.fromarray(draw_chest_xray(0, 0, "test", "COVID-19")[0]).save(tmp_path / "patient.png")
    command("predict", f"--input={tmp_path / 'patient.png'}", "--output=out")
    assert np.asarray(Image.open(tmp_path / "empty/out/masks/patient_infection.png")).shape == (256, 256)
    assert (tmp_path / "empty/out/predictions.csv").is_file()


def test_train_in_an_empty_folder(command, tmp_path):
    """With a shipped config, by its name. The user's config, which starts from it, prepared the data."""
    (tmp_path / "empty/mine.py").write_text(MINE)
    command("data", "--config=mine.py", *SMALL)
    flags = ("--config.train.total_epochs=0", "--config.train.total_steps=2", "--workdir=runs/demo")
    done = command("train", "--config=demo", *SMALL, *flags, program=(sys.executable, "-m", "jaxunet"))
    assert "Building" not in done.stdout
    assert (tmp_path / "empty/runs/demo/checkpoints/2").is_dir()


# ---- in the clone ----------------------------------------------------------------------------------------------------


def clone(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, *words], ROOT, status=status)


def test_version_is_that_of_pyproject():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert jaxunet.__version__ == version
    assert clone("-m", "jaxunet", "--version").stdout == f"jaxunet {version}\n"


def test_help_has_every_mode_and_what_a_mode_reads():
    for words in (["-m", "jaxunet"], ["-m", "jaxunet", "--help"], ["launch.py", "--help"]):
        said = clone(*words).stdout
        assert all(f"\n  {mode} " in said for mode in MODES), words
    said = clone("-m", "jaxunet", "predict", "--help").stdout
    assert "--input" in said
    assert "--topology" not in said


def test_configs_are_found_by_name_and_by_file():
    for config in ("resnet101_unet:pretrained", "configs/resnet101_unet.py:pretrained"):
        said = clone("-m", "jaxunet", "train", f"--config={config}", "--config.seed=x", "--workdir=x", status=1).stderr
        assert "config.seed" in said
    imports = "from configs import unet as a; from jaxunet.configs import unet as b; assert a.__file__ == b.__file__"
    clone("-c", imports)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["segment"], "error: the first word must be a mode, not 'segment': train, evaluate,"),
        (["--config=demo"], "error: the first word must be a mode, not '--config=demo': train, evaluate,"),
        (
            ["train", "--config=dmo"],
            "error: flag --config=dmo: neither a file nor a shipped config (classify",
        ),
        (["train", "--config=unet:x"], "error: flag --config=unet:x: TypeError: get_config() takes 0 positional"),
        (["predict", "x.png"], "error: unexpected argument 'x.png': flags start with --."),
    ],
)
def test_mistakes_are_one_sentence(words, said):
    done = clone("-m", "jaxunet", *words, status=1)
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1
    assert not done.stdout
