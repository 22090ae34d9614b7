"""`import jaxunet`: three lines predict an X-ray, the files are those of --mode=predict, mistakes are one sentence."""

import dataclasses
import pathlib
import re
import subprocess
import sys
import time

import numpy as np
import pytest

import jaxunet
from configs import demo
from jaxunet import commands
from jaxunet.data.drawing import draw_chest_xray
from jaxunet.prediction import loading
from jaxunet.prediction.predictor import Predictor
from jaxunet.training import loop
from jaxunet.xrays.pixels import to_8_bits
from tests.support.xrays import SIZE, Threshold, encoded, picture

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "python.md"


@pytest.fixture(scope="module")
def net() -> Predictor:
    return jaxunet.load()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Three drawn X-rays, `a.png` of 256 x 256, `b.png` of 300 x 200 pixels and `c/d.png`."""
    folder = tmp_path_factory.mktemp("xrays")
    (folder / "c").mkdir()
    for i, (name, rows) in enumerate({"a.png": 256, "b.png": 200, "c/d.png": 256}.items()):
        (folder / name).write_bytes(encoded(drawn(i)[:rows]))
    return folder


def drawn(index: int, label: str = "COVID-19") -> np.ndarray:
    return draw_chest_xray(0, index, "test", label)[0]


def assert_same(a: jaxunet.Prediction, b: jaxunet.Prediction, *, atol: float = 0) -> None:
    assert a.masks.keys() == b.masks.keys() == a.probabilities.keys()
    for target, probability in a.probabilities.items():
        np.testing.assert_allclose(probability, b.probabilities[target], atol=atol)
    assert a.covid19 == pytest.approx(b.covid19, abs=atol)


# ---- importing -------------------------------------------------------------------------------------------------------


def test_importing_it_loads_nothing():
    program = """
import sys, time
start = time.perf_counter()
import jaxunet
seconds = time.perf_counter() - start
assert {"load", "predict"} & set(dir(jaxunet)) == {"load"} and jaxunet.__version__
found = [m for m in ("jax", "numpy", "flax", "tensorflow_datasets", "ml_collections") if m in sys.modules]
assert not found, found
assert seconds < 0.2, seconds
jaxunet.load
assert "tensorflow_datasets" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there():
    assert set(jaxunet.__all__) <= set(dir(jaxunet))
    assert all(getattr(jaxunet, name).__doc__ for name in jaxunet.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        jaxunet.nothing  # noqa: B018


# ---- one X-ray, and many ---------------------------------------------------------------------------------------------


def test_path_bytes_array_and_xray_are_the_same_to_it(net, folder):
    path = folder / "a.png"
    found = net.predict(path)
    for source in (str(path), path.read_bytes(), drawn(0), jaxunet.read_xray(path)):
        assert_same(net.predict(source), found)
    assert found.name == "a.png"
    assert net.predict(drawn(0)).name == "xray.png"
    assert repr(found).startswith("<Prediction of a.png: 256 x 256 pixels, infection and lung, probability of COVID-19")
    assert found.masks["lung"].dtype == bool
    assert found.masks["lung"].shape == found.probabilities["lung"].shape == (256, 256)
    np.testing.assert_array_equal(found.masks["lung"], found.probabilities["lung"] > 0.5)
    assert found.measures["lung_pixels"] == found.masks["lung"].sum() > 1000
    assert found.detected is bool(found.covid19 > net.rule.threshold)
    assert found.overlay().shape == (256, 256, 3)


def test_other_arrays_are_scaled_as_files_of_more_bits(net):
    wide = drawn(0).astype(np.uint16) * 100 + 7
    np.testing.assert_array_equal(net.predict(wide).xray.pixels, to_8_bits(wide))
    given = drawn(0).copy()
    found = net.predict(given)
    given[:] = 0
    np.testing.assert_array_equal(found.xray.pixels, drawn(0))  # a copy: masks are computed later


def test_a_list_gives_a_list_in_its_order(net, folder):
    sources = [folder / "c/d.png", drawn(0), (folder / "b.png").read_bytes(), folder / "a.png", drawn(1)]
    found = net.predict(sources)
    assert [p.name for p in found] == ["c/d.png", "xray1.png", "xray2.png", "a.png", "xray4.png"]
    assert [p.xray.pixels.shape for p in found] == [(256, 256)] * 2 + [(200, 256)] + [(256, 256)] * 2
    for source, one in zip(sources, found, strict=True):
        assert_same(net.predict(source), one, atol=1e-5)
    assert net.predict([]) == []
    assert net.predict((folder / "a.png",))[0].name == "a.png"


def test_batches_are_small_for_one_and_of_one_size_for_many(config, monkeypatch):
    config.eval.batch_size = 8
    network, sizes, outputs = Threshold(config), [], Threshold.outputs

    def counted(self: Threshold, images: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
        sizes.append((len(images), batch_size))
        return outputs(self, images, batch_size)

    monkeypatch.setattr(Threshold, "outputs", counted)
    network.predict(picture())
    network.predict([picture()] * 3)
    found = network.predict([picture(200 + i) for i in range(20)])
    assert sizes == [(1, 2), (3, 4), (8, 8), (8, 8), (4, 8)]  # two devices
    assert [p.xray.pixels.max() for p in found] == list(range(200, 220))
    assert found[1].masks["infection"].sum() == 240
    assert found[0].xray.pixels.shape == (SIZE, SIZE)


def test_nothing_is_compiled_twice(net):
    net.predict(drawn(0))
    start = time.perf_counter()
    for i in range(3):
        assert net.predict(drawn(i)).masks["lung"].any()
    assert time.perf_counter() - start < 1.5  # a compilation takes longer than that


# ---- files -----------------------------------------------------------------------------------------------------------


def files_in(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_saved_files_are_those_of_the_command(net, folder, tmp_path):
    flags = commands.Flags(net.config, input=str(folder), output=str(tmp_path / "command"), probabilities=True)
    assert commands.execute("predict", flags) == 0
    for found in net.predict([folder / name for name in ("a.png", "b.png", "c/d.png")]):
        row = found.save(tmp_path / "saved", probabilities=True)
        assert row["severity_percent"] == round(found.measures["severity_percent"], 4)
    expected, saved = files_in(tmp_path / "command"), files_in(tmp_path / "saved")
    assert {name for name in expected if not name.endswith((".json", ".jsonl"))} == saved.keys()
    assert "masks/c/d_infection.png" in saved
    for name, data in saved.items():
        assert data == expected[name], name
    net.predict(folder / "b.png").save(tmp_path / "saved")  # again: its row takes the place of the old one
    assert (tmp_path / "saved/predictions.csv").read_bytes() == expected["predictions.csv"]


def test_arrays_can_be_named(net, tmp_path):
    for name in ("p1.png", "p2.png"):
        net.predict(drawn(0), name=name).save(tmp_path)
    table = (tmp_path / "predictions.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["input", "p1.png", "p2.png"]
    assert (tmp_path / "overlays/p1.png").is_file()
    with pytest.raises(jaxunet.UserError, match="a list was given"):
        net.predict([drawn(0)], name="p1.png")


def test_places_that_cannot_be_saved_to_stay_as_they_are(net, tmp_path):
    found, file = net.predict(drawn(0)), tmp_path / "predictions.csv"
    file.write_text("patient,age\n7,50\n")
    with pytest.raises(jaxunet.UserError, match="is not a table of predictions"):
        found.save(tmp_path)
    with pytest.raises(jaxunet.UserError, match="cannot be created"):
        found.save(file)
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_text() == "patient,age\n7,50\n"
    found.save(tmp_path, table=False)
    assert (tmp_path / "overlays/xray.png").is_file()


# ---- several networks ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(net, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Another network as a file: the one that comes along, with a bias that makes it see less."""
    import safetensors.numpy

    from jaxunet.models import torch_weights

    tensors, metadata = torch_weights.read_safetensors(loading.SHIPPED)
    head = {name: x - 1 for name, x in tensors.items() if name.endswith("bias") and "head" in name}
    assert head, sorted(tensors)[-9:]
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    safetensors.numpy.save_file(tensors | head, path, metadata=metadata)
    return path


def test_several_networks_give_the_mean_probability(net, other, folder):
    both = jaxunet.load([loading.SHIPPED, other]).predict(folder / "a.png")
    one, two = net.predict(folder / "a.png"), jaxunet.load(other).predict(folder / "a.png")
    for target, probability in both.probabilities.items():
        mean = (one.probabilities[target] + two.probabilities[target]) / 2
        assert np.abs(one.probabilities[target] - two.probabilities[target]).max() > 0.05
        # where the image is larger than the square, logits are interpolated, not probabilities
        np.testing.assert_allclose(probability, mean, atol=0.02)
        assert both.square.shape == (128, 128, 2)
    assert both.covid19 == pytest.approx((one.covid19 + two.covid19) / 2, abs=1e-6)


def test_runs_are_averaged_by_the_command_and_exported(finished, folder, tmp_path, capsys):
    runs = (str(finished), str(finished))
    flags = commands.Flags(loading.load_shipped().config, runs=runs, overrides={"eval.threshold": 0.4})
    flags = dataclasses.replace(flags, input=str(folder / "a.png"), output=str(tmp_path / "out"))
    assert commands.execute("predict", flags) == 0
    said = capsys.readouterr().out
    assert "infection from the mean of 2 runs" in said
    assert "(not chosen on val: any infected pixel counts)" in said
    jaxunet.load(finished, threshold=0.4).predict(folder / "a.png").save(tmp_path / "one")
    assert (tmp_path / "out/predictions.csv").read_bytes() == (tmp_path / "one/predictions.csv").read_bytes()
    assert commands.execute("predict", dataclasses.replace(flags, workdir=str(finished))) == 1
    assert "--workdir and --runs" in capsys.readouterr().err

    flags = dataclasses.replace(flags, output=str(tmp_path / "mean.zip"))
    assert commands.execute("export", flags) == 0
    assert "the mean of 2 runs" in (tmp_path / "MODEL_CARD.md").read_text()
    assert commands.execute("export", dataclasses.replace(flags, format="safetensors")) == 1
    assert "use --format=stablehlo or onnx" in capsys.readouterr().err


# ---- settings, training, mistakes ------------------------------------------------------------------------------------


def test_settings_by_keyword_or_key():
    net = jaxunet.load(threshold=0.4, flips=False, gate=False, batch_size=7, overrides={"input.threads": 3})
    eval, threads = net.config.eval, net.config.input.threads
    assert (eval.threshold, eval.flips, net.gate, eval.batch_size, threads) == (0.4, False, False, 8, 3)
    assert "threshold 0.4" in repr(net)


def test_training_and_scores(config, tmp_path, capsys):
    config.train.total_steps, config.eval.report = 2, False
    jaxunet.train(config, tmp_path / "run")
    found = jaxunet.evaluate(tmp_path / "run", threshold=0.4)
    assert (found["split"], found["threshold"], found["checkpoint_step"]) == ("val", 0.4, 2)
    assert (tmp_path / "run/eval/val/metrics.json").is_file()
    both = jaxunet.evaluate([tmp_path / "run"] * 2, output=tmp_path / "both", split="test")
    assert [m["checkpoint_step"] for m in both["members"]] == [2, 2]
    assert (tmp_path / "both/eval/test/metrics.json").is_file()
    with pytest.raises(jaxunet.UserError, match="is the folder of a run"):
        jaxunet.evaluate(output=tmp_path / "run")
    with pytest.raises(jaxunet.UserError, match="split='foo' is not one of train, val, test"):
        jaxunet.evaluate(tmp_path / "run", split="foo")
    with pytest.raises(jaxunet.UserError, match="output is missing"):
        jaxunet.evaluate()


def test_what_cannot_be_trained_or_scored_is_said_at_once(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "load_safetensors", lambda *_: pytest.fail("loaded"))
    (tmp_path / "file").touch()
    with pytest.raises(jaxunet.UserError, match="file is a file: choose another output"):
        jaxunet.evaluate(output="file")
    for arguments, words in [
        ((config, None), "workdir=None is of type NoneType: give a path"),
        ((3, "run"), "config=3 is of type int"),
        (("nothing", "run"), "config='nothing' is none of the shipped configs: .*unet"),
    ]:
        with pytest.raises(jaxunet.UserError, match=words):
            jaxunet.train(*arguments)
    assert not list(tmp_path.glob("None*"))


def test_train_takes_the_name_of_a_config(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(loop, "train", lambda *arguments: found.extend(arguments))
    jaxunet.train("demo", tmp_path)
    assert found[0].to_dict() == demo.get_config().to_dict()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"source": "nowhere"}, "^nowhere is neither the folder of a run nor a .safetensors file"),
        ({"source": "."}, "holds no run"),
        ({"source": 3}, "source=3 is of type int: give a path"),
        ({"source": ["a", None, 3]}, "source=3 is of type int: give a path"),
        ({"source": "no.safetensors"}, "no.safetensors does not exist"),
        ({"source": []}, "list of networks is empty"),
        ({"checkpoint": "best"}, "checkpoint=best applies to runs only"),
        ({"threshold": 2.0}, "config.eval.threshold=2.0 must be less than 1"),
        ({"threshold": "high"}, "config.eval.threshold='high' is of another kind"),
        ({"fips": True}, "no setting config.eval.fips"),
        ({"overrides": {"eval": 3}}, "config.eval"),
    ],
)
def test_networks_that_are_not_there(given, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(jaxunet.UserError, match=words) as caught:
        jaxunet.load(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere.png", "^nowhere.png cannot be read .No such file"),
        (pathlib.Path("."), "is a folder: give a list"),
        (b"text", "^it is not a PNG"),
        ("text.png", "^text.png: it is not a PNG"),
        (["nowhere.png"], "^nowhere.png cannot be read"),
        ([drawn(0), b"text"], "^Element 1 of the list: it is not a PNG"),
        ([drawn(0), np.zeros((8, 8), bool)], "^Element 1 of the list: .*dtype bool"),
        (np.zeros((8, 8, 3)), r"shape \(8, 8, 3\) and the dtype float64: give gray pixels"),
        (np.zeros((8, 8), bool), "dtype bool"),
        (np.zeros((0, 8), np.uint8), "0 x 8 pixels"),
        (np.full((8, 8), np.nan), "finite"),
        (7, "not of type int"),
    ],
)
def test_xrays_that_cannot_be_used(source, words, net, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_bytes(b"text")
    with pytest.raises(jaxunet.UserError, match=words) as caught:
        net.predict(source)
    assert "\n" not in str(caught.value)


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_page_does_what_it_says(finished, folder, tmp_path, monkeypatch):
    """Its Python blocks, one after the other, where it says that there are X-rays and runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "patient.png").write_bytes((folder / "a.png").read_bytes())
    (tmp_path / "xrays").symlink_to(folder)
    (tmp_path / "runs").mkdir()
    for run in ("unet", "a", "b"):
        (tmp_path / "runs" / run).symlink_to(finished)
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S):
        exec(compile(block, str(PAGE), "exec"), names)
    assert (tmp_path / "out/predictions.csv").read_text().count("\n") == 2
