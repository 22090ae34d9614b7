"""Exported files compute what the checkpoint computes, say what they are, and come whole or not at all."""

import dataclasses
import functools
import json
import pathlib
import re
import shutil
import subprocess
import sys

import flax
import jax
import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxunet.commands import Flags, execute
from jaxunet.core.errors import UserError
from jaxunet.data import prepared
from jaxunet.data.specs import COVID_QU_EX
from jaxunet.devices import replicas
from jaxunet.evaluation.evaluate import evaluate
from jaxunet.export import computed, export, formats, int8, model_card
from jaxunet.export.formats import FORMATS, Format
from jaxunet.models import averaging, convolution, separable_unet, torch_weights
from jaxunet.models.build import build_model
from jaxunet.prediction import loading
from jaxunet.prediction.predictor import Predictor
from jaxunet.runs import config_file
from jaxunet.runs.config_file import from_json
from jaxunet.scoring.detection import Rule
from jaxunet.xrays.read import read_xray
from tests.support.hostile_input import launch_and_check

ROOT = pathlib.Path(__file__).parents[2]
MISSING = FORMATS["onnx"].missing()
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"pip install 'jaxunet[onnx]': {MISSING} not installed")
onnx_format = pytest.param("onnx", marks=needs_onnx)


@pytest.fixture(scope="module")
def networks(make_config):
    """name -> a `Predictor` with random weights and running statistics, small where the network allows it."""
    channels, separable_unet.CHANNELS = separable_unet.CHANNELS, (4, 6, 8, 8, 8)
    result = {}
    for name in ("unet", "resnet_unet", "efficientnet_unet", "separable_unet"):
        config = make_config()
        config.model.name, config.model.depth, config.model.layout, config.dataset.image_size = name, 18, "plain", 32
        config.model.stem, config.model.input_mean, config.model.input_std = 2, 0.4, 0.3
        config.dataset.targets = ("infection", "lung")
        config.eval.threshold = 0.4
        model = build_model(config.model, ("infection", "lung"), axis_name=None)
        init = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), np.zeros((1, 32, 32, 1)))
        rng = np.random.default_rng(0)

        def draw(path, x, rng=rng):
            z = rng.standard_normal(x.shape)
            value = 1 + 0.1 * z if path[-1].key in ("scale", "var") else z / np.sqrt(max(x.size // x.shape[-1], 10))
            return np.abs(value).astype(np.float32) if path[-1].key == "var" else value.astype(np.float32)

        variables = jax.tree_util.tree_map_with_path(draw, init)
        rule = Rule.not_chosen(answers=False)
        result[name] = Predictor(config, 7, None, model, replicas.replicate(variables), name, rule)
    yield result
    separable_unet.CHANNELS = channels


def images(count: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, size, size), np.uint8)


def exported(source: Predictor, format: str, path: pathlib.Path) -> formats.Compute:
    row = FORMATS[format]
    row.write(source, export.describe(source, source.config), path)
    return row.read(source, path)


def example(format: str, file: str) -> str:
    """The Python lines of the page on how to run `file`."""
    page = FORMATS[format].how_to_run(file=file, format=format, size=0, agreement="")
    return page.partition("```python\n")[2].removesuffix("```")


@pytest.mark.parametrize("format", ["stablehlo", onnx_format, "safetensors", "torch"])
@pytest.mark.parametrize("name", ["unet", "resnet_unet", "efficientnet_unet", "separable_unet"])
def test_every_network_computes_the_same(networks, name, format, tmp_path):
    if format == "torch" and name in ("unet", "efficientnet_unet"):
        pytest.skip("the network has no counterpart in PyTorch")
    source = networks[name]
    computes = exported(source, format, tmp_path / "file")
    logits = source.outputs(images(5))["masks"]
    assert logits.std() > 0.1  # so that sameness says something
    # Of StableHLO, every batch size is compiled anew; one network shows that it may vary.
    batches = [slice(0, 2), slice(2, 5)] if name == "unet" or format == "onnx" else [slice(0, 5)]
    for batch in batches:
        result = {key: np.asarray(value) for key, value in computes(images(5)[batch]).items()}
        assert (result["mask"].dtype, result["probability"].dtype) == (np.uint8, np.float32)
        np.testing.assert_allclose(result["probability"], 1 / (1 + np.exp(-logits[batch])), atol=2e-5)
        sure = np.abs(logits[batch] - np.log(0.4 / 0.6)) > 1e-4
        np.testing.assert_array_equal(result["mask"][sure], (logits[batch] > np.log(0.4 / 0.6))[sure])


@needs_onnx
def test_a_depthwise_convolution_is_one_convolution_of_onnx():
    from jaxunet.export.onnx_graph import to_onnx

    kernel = np.ones((5, 5, 1, 4), np.float32)
    graph = to_onnx(lambda x: {"y": convolution.depthwise(x, kernel, 2)}, (8, 8, 4), np.float32, {}).graph
    assert [node.op_type for node in graph.node] == ["Transpose", "Conv", "Transpose", "Identity"]


@needs_onnx
def test_means_over_flips_and_runs_compute_the_same(networks, tmp_path):
    plain = [networks["unet"], dataclasses.replace(networks["unet"], variables=off(networks["unet"]))]
    config = plain[0].config.copy_and_resolve_references()
    config.eval.flips = True
    members = [loading.portable(dataclasses.replace(p, config=config)) for p in plain]
    mean = loading.ensemble(members, [tmp_path] * 2, averaging.portable_mean_logits)
    straight = [p.outputs(images(3))["masks"] for p in plain]
    mirrored = [p.outputs(images(3)[..., ::-1])["masks"][:, :, ::-1] for p in plain]
    expected = sum(1 / (1 + np.exp(-x)) for x in straight + mirrored) / 4
    assert np.abs(expected - 1 / (1 + np.exp(-straight[0]))).max() > 0.1
    result = exported(mean, "onnx", tmp_path / "file")(images(3))
    np.testing.assert_allclose(result["probability"], expected, atol=1e-5)


def test_safetensors_alone_are_enough(networks, tmp_path):
    rule = Rule("lung", 0.25, "chosen on val")
    source = dataclasses.replace(networks["unet"], rule=rule)
    exported(source, "safetensors", tmp_path / "whole")
    loaded = loading.load_safetensors(tmp_path / "whole")
    assert loaded.rule == rule
    assert (loaded.step, loaded.targets, loaded.image_size, loaded.threshold) == (7, ("infection", "lung"), 32, 0.4)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, source.variables)
    other = loading.load_safetensors(tmp_path / "whole", {"eval.threshold": 0.3, "eval.flips": True})
    assert (other.threshold, other.rule.threshold) == (0.3, 0.0)  # the rule was chosen for 0.4
    flipped = source.outputs(images(2)[..., ::-1])["masks"][:, :, ::-1]
    expected = (1 / (1 + np.exp(-flipped)) + 1 / (1 + np.exp(-source.outputs(images(2))["masks"]))) / 2
    np.testing.assert_allclose(1 / (1 + np.exp(-other.outputs(images(2))["masks"])), expected, atol=1e-5)
    exported(source, "safetensors_float16", tmp_path / "half")
    half = loading.load_safetensors(tmp_path / "half")
    assert {x.dtype for x in jax.tree.leaves(half.variables)} == {np.dtype(np.float32)}
    assert 0 < np.abs(half.outputs(images(2))["masks"] - source.outputs(images(2))["masks"]).max() < 0.05
    assert (tmp_path / "half").stat().st_size < 0.8 * (tmp_path / "whole").stat().st_size


@pytest.mark.parametrize("name", ["resnet_unet", "separable_unet"])
def test_pytorch_names_come_back_bit_for_bit(networks, name, tmp_path):
    source = networks[name]
    exported(source, "torch", tmp_path / "file.safetensors")
    tensors = torch_weights.read_tensors(tmp_path / "file.safetensors")
    again = torch_weights.from_torch(tensors, jax.device_get(source.variables), name, source="file")
    jax.tree.map(np.testing.assert_array_equal, again, jax.device_get(source.variables))


def test_safetensors_of_something_else_are_refused(networks, tmp_path):
    source, path = networks["unet"], tmp_path / "file.safetensors"
    metadata, tensors = export.describe(source, source.config), loading.flatten(source.variables)
    with pytest.raises(UserError, match="does not exist"):
        loading.load_safetensors(path)
    for wrong, sentence in [
        ({k: v for k, v in tensors.items() if k != "params/head/bias"}, "has no tensor 'params/head/bias'"),
        (tensors | {"extra": np.zeros(1)}, "has a superfluous tensor 'extra'"),
        (tensors | {"params/head/bias": np.zeros(3)}, r"'params/head/bias' has the shape \(3,\)"),
    ]:
        formats.save_safetensors(wrong, metadata, path)
        with pytest.raises(UserError, match=sentence):
            loading.load_safetensors(path)
    for wrong in ({"targets": 1}, metadata | {"config": {}}, metadata | {"config": [1]}):
        formats.save_safetensors(tensors, wrong, path)
        with pytest.raises(UserError, match="was not written by --mode=export"):
            loading.load_safetensors(path)


@needs_onnx
def test_onnx_says_what_it_is(networks, tmp_path):
    import onnx
    import onnxruntime

    source = networks["unet"]
    exported(source, "onnx", tmp_path / "file")
    model = onnx.load(tmp_path / "file")
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    session = onnxruntime.InferenceSession(tmp_path / "file", providers=["CPUExecutionProvider"])
    assert [(x.name, x.type, x.shape) for x in session.get_inputs()] == [("image", "tensor(uint8)", ["batch", 32, 32])]
    outputs = {x.name: (x.type, x.shape) for x in session.get_outputs()}
    shape = ["batch", 32, 32, 2]
    assert outputs == {"mask": ("tensor(uint8)", shape), "probability": ("tensor(float)", shape)}
    about = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert (about["targets"], about["threshold"], about["opset"]) == (["infection", "lung"], 0.4, 17)
    assert from_json(json.dumps(about["config"])).model.name == "unet"
    assert about["detection"]["words"] == "COVID-19 if more than 0.0000% of the image is infected"
    assert "(image_size - rows) // 2" in about["letterbox"]
    assert about["blank_unless_detected"] == []


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(finished, tmp_path_factory):
    """A copy of the finished run, scored on Val. Its name would do harm where it is not escaped."""
    workdir = tmp_path_factory.mktemp("runs") / "a_b_<script>`$(id)"
    shutil.copytree(finished, workdir)
    evaluate(config_file.load(workdir), workdir, split="val", checkpoint="latest")
    return workdir


def command(workdir: pathlib.Path, output: pathlib.Path | str | None, *, format: str = "stablehlo", **overrides) -> int:
    keys = {name.replace("__", "."): value for name, value in overrides.items()}
    name = None if output is None else str(output)
    flags = Flags(config_file.load(workdir), overrides=keys, workdir=str(workdir), format=format, output=name)
    return execute("export", flags)


@pytest.mark.parametrize("format", ["stablehlo", onnx_format, "safetensors"])
def test_examples_of_the_docs_run_on_what_the_command_writes(evaluated, format, tmp_path, capsys):
    """In a fresh process, which for StableHLO and ONNX does without jaxunet."""
    assert command(evaluated, tmp_path / "new" / "unet.file", format=format, eval__threshold=0.3) == 0
    assert "of 524,288 mask pixels differ" in capsys.readouterr().out.replace("262,144", "524,288")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["MODEL_CARD.md", "unet.file"]
    assert len({p.stat().st_mode for p in (tmp_path / "new").iterdir()}) == 1  # readable as any other file
    lines = example(format, "unet.file")
    assert lines in (tmp_path / "new" / "MODEL_CARD.md").read_text()
    xray = images(1, 256)[0]
    Image.fromarray(xray).save(tmp_path / "new" / "xray.png")
    if format != "safetensors":
        lines += "import sys; assert 'jaxunet' not in sys.modules\n"
    done = subprocess.run(
        [sys.executable, "-c", lines],
        cwd=tmp_path / "new",
        env={"PYTHONPATH": ":".join([str(ROOT), *sys.path]), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    config = config_file.load(evaluated)
    config.eval.threshold = 0.3
    source = loading.load(config, evaluated, checkpoint="latest")
    share = (source.outputs(xray[None])["masks"] > np.log(0.3 / 0.7)).mean(axis=(0, 1, 2))
    targets, printed = done.stdout.strip().split("]" if format != "safetensors" else ")", 1)
    assert "infection" in targets
    np.testing.assert_allclose(np.fromstring(printed.strip(" []"), sep=" "), share, rtol=1e-4)


def test_the_docs_show_these_examples():
    docs = (ROOT / "docs" / "export.md").read_text()
    for format, row in FORMATS.items():
        assert f"| `{format}` |" in docs
        assert not row.extra or f"pip install 'jaxunet[{row.extra}]'" in docs
    assert f"```python\n{example('onnx', 'unet.onnx')}```" in docs


@pytest.mark.parametrize("format", ["stablehlo", "onnx"])
def test_the_examples_read_16_bits_as_the_program_does(format, tmp_path, monkeypatch):
    values = np.linspace(100, 4000, 64 * 64).reshape(64, 64).astype(np.uint16)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(values).save("xray.png")
    lines = example(format, "file").partition("image = Image.open")[1:]
    names = {"Image": Image, "ImageOps": ImageOps, "np": np, "size": 64}
    exec("".join(lines).partition("[None]")[0], names)
    np.testing.assert_array_equal(names["image"], read_xray("xray.png").pixels)


def test_every_page_is_of_a_format():
    assert {path.stem for path in formats.PAGES.iterdir()} == {row.page for row in FORMATS.values()}


def test_help_names_the_formats_without_jax():
    code = "import sys; from jaxunet import command_line; print('jax' in sys.modules, *command_line.FORMATS)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", *FORMATS]


def test_a_new_format_is_a_row_and_a_page(evaluated, tmp_path, monkeypatch, capsys):
    """Given its code: the command writes it, checks it, and the card says how to run it."""

    def write(source, metadata, path):
        with path.open("wb") as file:
            np.savez(file, **loading.flatten(source.variables))

    def read(source, path):
        tensors = flax.traverse_util.unflatten_dict(dict(np.load(path)), sep="/")
        return computed.function_of(dataclasses.replace(source, variables=tensors))

    row = Format(write, read, "numpy", ".npz")
    monkeypatch.setattr(formats, "PAGES", tmp_path)
    monkeypatch.setitem(FORMATS, "numpy", dataclasses.replace(row, libraries=("no_such_library",), extra="x"))
    (tmp_path / "numpy.md").write_text("Load `$file`, which is $format of $size pixels. $agreement\n")
    out = tmp_path / "out" / "unet.npz"
    assert command(evaluated, out, format="numpy") == 1
    assert "--format=numpy needs no_such_library: pip install 'jaxunet[x]'" in capsys.readouterr().err
    monkeypatch.setitem(FORMATS, "numpy", row)
    assert command(evaluated, out, format="numpy") == 0
    card = (out.parent / "MODEL_CARD.md").read_text()
    assert "Load `unet.npz`, which is numpy of 256 pixels. On 4 drawn X-rays" in card


def test_card_has_the_numbers_of_the_run(evaluated, tmp_path):
    assert command(evaluated, tmp_path / "file", format="safetensors") == 0
    card = (tmp_path / "MODEL_CARD.md").read_text()
    result = json.loads((evaluated / "eval/val/metrics.json").read_text())
    dice, pooled = result["P1"]["dice"], result["P2"]["iou"]["value"]
    low, high = dice["ci95"]
    assert f"{dice['mean']:.4f} [{low:.4f}, {high:.4f}]" in card
    assert f"{pooled:.4f} [" in card
    assert "- Images: 10 for training, 6 Val, 4 Test." in card
    assert "Not for clinical use" in card
    assert "\n---\n" + r"# a\_b\_\<script\>\`$(id): infection on chest X-rays" in card
    assert "These are not the scores" not in card
    source = loading.load(config_file.load(evaluated), evaluated, checkpoint="latest")
    other = dataclasses.replace(source, step=3)
    assert "These are not the scores of the exported network" in model_card._scores(other, evaluated)[0]
    assert "Not evaluated" in model_card._scores(source, tmp_path)[0]
    (tmp_path / "eval/val").mkdir(parents=True)
    (tmp_path / "eval/val/metrics.json").write_text('{"P1": 3}')
    assert "`eval/val/metrics.json` cannot be read" in model_card._scores(source, tmp_path)[0]


def test_hugging_face_reads_the_header_of_the_card(evaluated, tmp_path):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is missing: pip install 'jaxunet[runtimes]'")
    assert command(evaluated, tmp_path / "file", format="safetensors") == 0
    data = hub.ModelCard.load(tmp_path / "MODEL_CARD.md").data
    assert (data.license, data.library_name, data.pipeline_tag) == ("other", "jaxunet", "image-segmentation")
    result = json.loads((evaluated / "eval/val/metrics.json").read_text())
    found = {(r.metric_name, r.dataset_split): r.metric_value for r in data.eval_results}
    assert found["dice, infection, P1", "val"] == result["P1"]["dice"]["mean"]
    assert found["iou, infection, P2", "val"] == result["P2"]["iou"]["value"]
    assert command(evaluated, tmp_path / "file", format="safetensors", eval__threshold=0.3) == 0
    assert hub.ModelCard.load(tmp_path / "MODEL_CARD.md").data.eval_results is None  # those are of another threshold
    assert len(hub.ModelCard.load(loading.SHIPPED.with_name("MODEL_CARD.md")).data.eval_results) == 8


@pytest.mark.parametrize("lost", [1.0, -1.0])
@needs_onnx
def test_8_bits_are_measured_on_val(lost, evaluated, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(int8, "_LOST", lost)
    assert command(evaluated, tmp_path / "new" / "unet.onnx", format="onnx_int8") == (lost < 0)
    said = capsys.readouterr()
    if lost < 0:
        assert "8 bits are too few for this network. On 3 X-rays of Val" in said.err
        assert not list((tmp_path / "new").iterdir())
        return
    import onnx

    words = re.search(r"On 3 X-rays of Val, its mean Dice is: infection (0\.\d+) \(float32: (0\.\d+)\)\.", said.out)
    result = json.loads((evaluated / "eval/val/metrics.json").read_text())
    assert float(words[2]) == pytest.approx(result["P1"]["dice"]["mean"], abs=1e-4)
    assert float(words[1]) == pytest.approx(float(words[2]), abs=0.05)
    assert words[0] in (tmp_path / "new" / "MODEL_CARD.md").read_text()
    model = onnx.load(tmp_path / "new" / "unet.onnx")
    largest = max(model.graph.initializer, key=lambda x: np.prod(x.dims))
    assert largest.data_type == onnx.TensorProto.INT8
    assert {"letterbox", "detection", "threshold"} <= {x.key for x in model.metadata_props}


def test_card_of_real_data_tells_of_leaks(networks, tmp_path, monkeypatch):
    source = networks["unet"]
    source.config.dataset.name = "covid_qu_ex"
    try:
        assert "imported or never trained" in model_card._training_data(source, tmp_path)
        (tmp_path / "metrics.jsonl").touch()
        monkeypatch.setattr(prepared, "prepared", lambda *_: None)
        assert "not on this machine" in model_card._training_data(source, tmp_path)
        near = [("Train/COVID-19/b", "Val/COVID-19/c"), ("Train/Normal/d", "Val/Normal/e"), ("Val/f", "Test/g")]
        report = {"source": "", "fingerprint": "", "dropped_from_train": ["Train/COVID-19/a"], "near": near}
        (tmp_path / "verify.json").write_text(json.dumps(report))
        split = type("Split", (), {"num_examples": 1864})
        info = type("Info", (), {"splits": {"train": split, "val": split, "test": split}})
        builder = type("Builder", (), {"spec": COVID_QU_EX, "data_dir": tmp_path, "info": info})
        monkeypatch.setattr(prepared, "prepared", lambda *_: builder)
        words = model_card._training_data(source, tmp_path)
    finally:
        source.config.dataset.name = "synthetic_cxr"
    assert "1,863 for training" in words
    assert "one of Val or Test: 1, left out" in words
    assert "nearly identical: 1, kept" in words
    assert "kaggle.com/datasets/anasmohammedtahir/covidqu" in words


def test_what_cannot_be_written_is_one_sentence(evaluated, tmp_path, monkeypatch, capsys):
    output = tmp_path / "file"
    output.write_text("old")

    def refused(**arguments) -> str:
        assert command(evaluated, **({"output": output} | arguments)) == 1
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert output.read_text() == "old"
        assert [p.name for p in tmp_path.iterdir()] == ["file"]
        return error

    assert "'unet' has no counterpart in PyTorch" in refused(format="torch")
    assert "--output is missing" in refused(output=None)
    assert "is a folder" in refused(output=tmp_path)
    assert "is the model card" in refused(output=tmp_path / "MODEL_CARD.md")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "pip install 'jaxunet[onnx]'" in refused(format="onnx")
    monkeypatch.undo()

    honest = computed.function_of
    monkeypatch.setattr(
        computed, "function_of", lambda source: honest(dataclasses.replace(source, variables=off(source)))
    )
    assert "computes other values than the checkpoint" in refused()


def off(source: Predictor) -> dict:
    """Weights a little beside those of `source`."""
    return jax.tree.map(lambda x: x + 0.01, jax.device_get(source.variables))


def test_unknown_format_is_refused(capsys):
    assert launch_and_check("--mode=export", "--format=keras", "--workdir=x") == 1
    assert "|".join(FORMATS) in capsys.readouterr().err
