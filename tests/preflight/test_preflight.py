"""Preflight on the devices present and, if the TPU compiler is installed, on slices; reading a program's text."""

import importlib.util
import json
import pathlib
import subprocess
import sys
import types
from typing import Any

import jax
import pytest

from configs import classify
from jaxunet.core.errors import UserError
from jaxunet.devices import peak_rates
from jaxunet.preflight import hlo, preflight, roofline, slices
from jaxunet.preflight.traffic import memory_traffic

ROOT = pathlib.Path(__file__).parents[2]
V5E = peak_rates.peak("TPU v5 lite")

TEXT = """HloModule jit_run

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main.1 (p0: bf16[32,64,64,32]) -> f32[256] {
  %p0 = bf16[32,64,64,32]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %fusion.1 = bf16[32,64,64,32]{3,2,1,0:T(8,128)(2,1)} fusion(%p0), kind=kLoop, calls=%f
  %fusion.2 = bf16[8,256]{1,0:T(8,128)(2,1)} fusion(%fusion.1), kind=kLoop, calls=%g
  %all-reduce.3 = (f32[64]{0:T(128)}, /*index=1*/f32[3,3,64]{2,1,0:T(4,128)}) all-reduce(%a, %b), to_apply=%add
  %start.4 = f32[256]{0:T(256)S(1)} all-reduce-start(%c), to_apply=%add
  %done.4 = f32[256]{0:T(256)S(1)} all-reduce-done(%start.4)
  %start.5 = (f32[16]{0}, f32[64]{0}) all-gather-start(%d), dimensions={0}
  %done.5 = f32[64]{0} all-gather-done(%start.5)
  %start.6 = (bf16[4,4]{1,0}, bf16[4,4]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%e)
  ROOT %done.6 = bf16[4,4]{1,0} collective-permute-done(%start.6)
}
"""


# As the CUDA compiler writes: a loop of steps, each with cuDNN's convolutions, a product, and an all-reduce beside it.
GPU_TEXT = (pathlib.Path(__file__).parent / "gpu_step.hlo").read_text()

# Published: dense bfloat16 TFLOPS, memory in GB, its GB/s, GB/s to other chips, axes of the torus, chips joined.
PUBLISHED = {
    "TPU v4": (275, 32, 1200, None, 3, 4096),
    "TPU v5 lite": (197, 16, 819, 400, 2, 256),  # 1600 Gbps one way
    "TPU v5": (459, 95, 2765, 1200, 3, 8960),  # 4800 Gbps one way
    "TPU v6 lite": (918, 32, 1638, 800, 2, 256),
    "NVIDIA A100-SXM4-80GB": (312, 80, 2039, 600, 1, 8),
    "NVIDIA H100 80GB HBM3": (989, 80, 3350, 900, 1, 8),
    "NVIDIA H200": (989, 141, 4800, 900, 1, 8),
    "NVIDIA B200": (2250, 180, 7700, 1800, 1, 8),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_hardware_rates_are_the_published_ones(kind):
    flops, memory, bandwidth, interconnect, axes, joined = PUBLISHED[kind]
    chip = peak_rates.peak(kind)
    assert chip.flops == pytest.approx(flops * 1e12, rel=1e-3)
    assert chip.memory in (memory * 10**9, memory * 2**30)
    assert chip.bandwidth == pytest.approx(bandwidth * 1e9, rel=1e-3)
    if interconnect:
        assert chip.interconnect == pytest.approx(interconnect * 1e9, rel=1e-3)
    else:  # only the all-reduce of a pod is published: 1.1 PB/s one way
        assert chip.interconnect * chip.joined / 2 == pytest.approx(1.1e15, rel=1e-3)
    assert (chip.axes, chip.joined) == (axes, joined)
    assert chip.closed_from == {1: 1, 2: 16, 3: 4}[axes]  # a switch; whole pods of 16 x 16; cubes of 4 x 4 x 4
    assert chip.source


def test_every_chip_of_the_table_is_compared_with_what_is_published():
    assert set(peak_rates._PEAKS) == set(PUBLISHED)
    assert peak_rates.peak("cpu") is None


def test_collectives_are_counted_once_with_the_bytes_of_their_results():
    assert hlo.collectives(TEXT) == {
        "all-reduce": {"count": 2, "bytes": 4 * (64 + 3 * 3 * 64 + 256), "blocking": 2},
        "all-gather": {"count": 1, "bytes": 4 * 64, "blocking": 1},
        "collective-permute": {"count": 1, "bytes": 2 * 16, "blocking": 1},
    }


def test_padding_to_tiles():
    """32 channels are padded to 128; 256 are not padded."""
    plain, full = 32 * 64 * 64 * 32 * 2, 8 * 256 * 2
    padding = hlo.padding(TEXT)
    reduced, tiled = 4 * 3 * 3 * 64, 4 * 3 * 4 * 128
    expected = (4 * plain + full + tiled) / (plain + full + reduced)
    assert padding["factor"] == pytest.approx(expected, rel=1e-6)
    assert list(padding["worst"]) == ["bf16[32,64,64,32]", "f32[3,3,64]"]
    assert padding["worst"]["bf16[32,64,64,32]"] == {"factor": 4.0, "lane_axis": 3}


def test_traffic_leaves_out_what_is_on_the_chip():
    """Padding counts, a loop counts once, an asynchronous slice reads as much as it writes. S(1) is on the chip."""
    text = """HloModule m

%body.1 (arg: (f32[8,128])) -> (f32[8,128]) {
  %arg = (f32[8,128]{1,0:T(8,128)}) parameter(0)
  %get.1 = f32[8,128]{1,0:T(8,128)} get-tuple-element(%arg), index=0
  %double.1 = f32[8,128]{1,0:T(8,128)} add(%get.1, %get.1)
  ROOT %tuple.1 = (f32[8,128]{1,0:T(8,128)}) tuple(%double.1)
}

ENTRY %main (p0: bf16[16,64], p1: f32[8,128]) -> (f32[8,128]) {
  %p0 = bf16[16,64]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = f32[8,128]{1,0:T(8,128)} parameter(1)
  %near.1 = bf16[16,64]{1,0:T(8,128)(2,1)S(1)} fusion(%p0), kind=kLoop, calls=%f
  %near.2 = bf16[16,64]{1,0:T(8,128)(2,1)S(1)} fusion(%near.1), kind=kLoop, calls=%f
  %start.1 = ((f32[8,128]{1,0:T(8,128)}), f32[4,128]{1,0:T(4,128)S(1)}, s32[]{:S(2)}) slice-start(%p1), slice={[0:4]}
  %done.1 = f32[4,128]{1,0:T(4,128)S(1)} slice-done(%start.1)
  %copy.1 = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%p1)
  %copied.1 = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%copy.1)
  %tuple.2 = (f32[8,128]{1,0:T(8,128)}) tuple(%p1)
  ROOT %loop.1 = (f32[8,128]{1,0:T(8,128)}) while(%tuple.2), condition=%c, body=%body.1
}
"""
    p0_padded, slice_read, copy_read, body = 16 * 128 * 2, 4 * 128 * 4, 8 * 128 * 4, 3 * 8 * 128 * 4
    assert memory_traffic(text) == p0_padded + slice_read + copy_read + body


def test_a_step_of_a_gpu_program():
    """The loop's body is the step. Of the images the gathered ones are read, of the rows the updated one is written."""
    text = hlo.step_of_loop(GPU_TEXT)
    assert hlo.step_of_loop(TEXT) == TEXT
    convolution, product = 2 * (32 * 16 * 16) * (3 * 3 * 32 * 64), 2 * 8192 * 64 * 256
    assert hlo.arithmetic(text) == 3 * convolution + product
    assert hlo.kernels(text) == 4 + 3 + 3 + 2  # copies, fusions, convolutions, all-reduces
    assert hlo.collectives(text) == {"all-reduce": {"count": 2, "bytes": 4 * (2 * 64 + 4 + 256), "blocking": 1}}
    x, y, k = 2 * 32 * 16 * 16 * 32, 2 * 32 * 16 * 16 * 64, 2 * 64 * 9 * 32
    copies = 4 * 32 + k + (x + y) + 2 * 64 * 256  # where the text defines the operand, it is read
    gather = 32 * 256 + 4 * 32 + 4 * 32 * 256
    gemm = y + 2 * 64 * 256 + 2 * 8192 * 256
    sums, update = 4 * (2 * 64 + 4) + 4 * 256, 2 * 4 * 256 + 4
    assert memory_traffic(text) == copies + gather + 3 * (x + y + k) + gemm + sums + update


def test_devices_present(config, tmp_path: pathlib.Path, capsys):
    """Two simulated devices give figures, a gradient exchange of about the parameters' size, and no verdict."""
    config.model.dtype = "auto"
    result = preflight.preflight(config, ["cpu"], tmp_path, batch_per_chip=0)
    assert json.loads((tmp_path / "preflight.json").read_text()) == result
    entry = result["cpu"]
    assert (entry["chips"], entry["batch_per_chip"]) == (jax.device_count(), 2)
    for kind in ("train", "eval"):
        assert entry[kind]["flops_per_image"] > 1e6
        assert entry[kind]["hbm_bytes_per_image"] > 0
        assert entry[kind]["bytes_per_image"] > entry[kind]["temp_bytes_per_image"] > 0
        assert entry[kind]["peak_bytes"] > entry[kind]["temp_bytes"]
        assert "fits" not in entry[kind]
    assert entry["train"]["flops_per_image"] > 2 * entry["eval"]["flops_per_image"]
    assert entry["train"]["collectives"]["all-reduce"]["bytes"] > 4 * 1000
    assert entry["eval"]["collectives"] == {}
    printed = capsys.readouterr().out
    assert "compiled in" in printed
    assert "no times, no verdict" in printed
    assert config.model.dtype == "auto"


def test_streamed_data_is_not_an_argument(config, monkeypatch: pytest.MonkeyPatch):
    """Resident training images take memory of the chip, streamed images do not."""
    config.dataset.synthetic.train = 1000
    sizes = {}
    for mode in ("resident", "stream"):
        config.input.mode = mode
        lowered = preflight._lower_train(config, jax.devices(), 2)
        sizes[mode] = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(lowered.in_avals))
    assert sizes["resident"] - sizes["stream"] == pytest.approx(996 * 256 * (256 + 32), rel=1e-3)


@pytest.mark.parametrize(
    ("topologies", "change", "batch_per_chip", "sentence"),
    [
        ([], {}, 0, "--topology is missing: name accelerators"),
        (["cpu"], {"train.batch_size": 3}, 0, "3 images per step cannot be divided over the 2 chips of cpu"),
        (["cpu"], {"train.accumulate_steps": 2}, 3, "6 images .* in config.train.accumulate_steps=2 parts"),
        (["cpu"], {"dataset.image_size": 100}, 0, "dataset.image_size=100 is not one of"),
    ],
)
def test_bad_requests_get_one_sentence(config, topologies, change, batch_per_chip, sentence):
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=sentence) as raised:
        preflight.preflight(config, topologies, None, batch_per_chip=batch_per_chip)
    assert "\n" not in str(raised.value)


def test_classification_is_refused():
    with pytest.raises(UserError, match="is for segmentation"):
        preflight.preflight(classify.get_config(), ["cpu"], None, batch_per_chip=0)


def test_without_the_tpu_compiler(config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--topology=v5e:2x2 needs the TPU compiler: pip install 'jaxunet\[tpu\]'"):
        preflight.preflight(config, ["v5e:2x2"], None, batch_per_chip=8)


def test_without_the_cuda_compiler(config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--topology=h100:8 needs the CUDA compiler: pip install 'jaxunet\[cuda12\]'"):
        preflight.preflight(config, ["h100:8"], None, batch_per_chip=8)
    with pytest.raises(UserError, match="--topology=h100:16 is unknown: use h100:1 to h100:8"):
        preflight.preflight(config, ["h100:16"], None, batch_per_chip=8)


def test_what_the_compilers_are_told(monkeypatch: pytest.MonkeyPatch):
    """TPUs: one device per v4 chip, and the bounds of a single one. GPUs: all of one host, and their figures."""
    from jax.experimental import topologies

    asked = {}

    def describe(platform, topology_name, **options):
        asked[topology_name] = (platform, options)
        return types.SimpleNamespace(devices=[])

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(topologies, "get_topology_desc", describe)
    monkeypatch.setattr(slices.os, "environ", {})
    for name in ("v4:2x2x1", "v5e:1x1", "v5e:2x2", "a100:2", "h100:8"):
        assert slices.devices(name) == []
    assert asked["v4:2x2x1"] == ("tpu", {"chip_config_name": "megacore"})
    assert asked["v5e:1x1"] == ("tpu", {"chips_per_host_bounds": [1, 1, 1]})
    assert asked["v5e:2x2"] == ("tpu", {})
    for card, place, major in (("a100", "1x1x2", "major: 8 }"), ("h100", "1x1x8", "major: 9 feature_extension")):
        platform, options = asked[card]
        assert (platform, options["topology"]) == ("cuda", place)
        assert f"cuda_compute_capability {{ {major}" in options["target_config"]
    for kind, *_, memory, bandwidth, _ in slices._CARDS.values():
        assert memory == pytest.approx(peak_rates.peak(kind).memory, rel=0.08)
        assert bandwidth == pytest.approx(peak_rates.peak(kind).bandwidth, rel=0.01)


def test_unknown_topology(config, monkeypatch: pytest.MonkeyPatch):
    """The compiler's error becomes one line. Nothing is compiled before all names are checked."""
    from jax.experimental import topologies

    def refuse(**_):
        raise RuntimeError("INVALID_ARGUMENT: no such\ntopology")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    monkeypatch.setattr(preflight, "_lower_train", None)
    with pytest.raises(UserError, match="--topology=v9z:1x1 is not known to the TPU compiler .*no such t") as raised:
        preflight.preflight(config, ["cpu", "v9z:1x1"], None, batch_per_chip=8)
    assert "\n" not in str(raised.value)


def test_roofline_by_hand():
    """One v5e chip: 197 TFLOP/s, 819 GB/s, 16 GB."""
    result = {
        "flops_per_image": 197e9,
        "hbm_bytes_per_image": 1638e6,
        "temp_bytes": 10 * 150e6,
        "temp_bytes_per_image": 150e6,
        "peak_bytes": 10 * 150e6 + 1e9,
        "collectives": {"all-reduce": {"count": 3, "bytes": 200_000_000}},
    }
    one = roofline.project(result, V5E, chips=1, per_chip=10)
    assert one["fits"]
    assert one["largest_batch_that_fits"] == 100
    assert one["roofline_compute_seconds"] == pytest.approx(0.010)
    assert one["roofline_memory_seconds"] == pytest.approx(0.020)
    assert one["roofline_images_per_second_per_chip"] == pytest.approx(500)
    assert one["scaling_efficiency"]["1"] == 1.0
    # 256 chips: rings of 16, the full 200 GB/s per direction, 32 hops. 4 chips: open lines, half of that, 4 hops.
    assert roofline.exchange_seconds(result["collectives"], V5E, 256) == pytest.approx(2 * 255 / 256 * 1e-3 + 96e-6)
    assert roofline.exchange_seconds(result["collectives"], V5E, 4) == pytest.approx(2 * 3 / 4 * 2e-3 + 12e-6)


def test_the_batch_that_fills_a_chip():
    """A GPU that would reach 1,000 images/s with unlimited batches, at 1 GB of state per step and 1 GB/s."""
    chip = peak_rates.Peak(1e12, 80e9, 1e9, 900e9, 1, 1, 8, "", 0.75)
    result = {"flops_per_image": 1e9, "hbm_bytes_per_image": 1e6 + 2e8 / 10, "collective_seconds": 0.0}
    found = roofline.batches(result, chip, 10, state=100_000_000, own=2.0)
    assert found["optimizer_bytes"] == 2e8
    assert found["bound_images_per_second_per_chip"] == pytest.approx(1000)
    assert found["own_batch_images_per_second_per_chip"] == pytest.approx(2 / 0.202)
    assert found["batch_per_chip_for_90_percent"] == 1800  # 1800 / (0.2 + 1.8) = 900


def test_jax_takes_three_quarters_of_a_gpu():
    h100 = peak_rates.peak("NVIDIA H100 80GB HBM3")
    figures = {"flops_per_image": 1e9, "hbm_bytes_per_image": 1e9, "collectives": {}}
    for gb, fits in ((59, True), (61, False)):
        memory = {"temp_bytes": gb * 1e9 - 1e9, "temp_bytes_per_image": 1e9, "peak_bytes": gb * 1e9}
        result = roofline.project(figures | memory, h100, chips=1, per_chip=gb - 1)
        assert (result["fits"], result["largest_batch_that_fits"]) == (fits, 59)


def test_a_program_that_is_too_large():
    """The report holds the compiler's words and a batch that may fit."""
    words = "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (63.00G) exceeds available HBM (15.75G)."
    result = roofline.too_large(words, 32)
    assert not result["fits"]
    assert result["largest_batch_that_fits"] == 8
    entry = {"batch_per_chip": 32, "peak_rates": None, "device_kind": "x", "train": result, "eval": result}
    assert "train: DOES NOT FIT; about 8 images per chip may fit" in roofline.table(entry)


CUDA = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None, reason="needs the CUDA compiler, the extra [cuda12]"
)


@CUDA
@pytest.mark.parametrize("card", slices._CARDS)
def test_every_card_is_known_to_its_compiler(card):
    (device,) = slices.devices(f"{card}:1")
    assert peak_rates.peak(device.device_kind)
    array = jax.ShapeDtypeStruct((64, 64), jax.numpy.bfloat16, sharding=jax.sharding.SingleDeviceSharding(device))
    text = jax.jit(lambda a, b: a @ b).lower(array, array).compile().as_text()
    assert hlo.arithmetic(text) == 2 * 64**3


SMALL = ("--config.model.channels=(8,16)", "--config.model.stem=4", "--config.dataset.image_size=32")


def launched(*options: str) -> subprocess.CompletedProcess[str]:
    """The command in its own process, for a small network."""
    command = [sys.executable, "launch.py", "--mode=preflight", "--config=configs/unet.py", *SMALL, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def told(workdir: pathlib.Path, *options: str) -> dict[str, Any]:
    """What the command writes."""
    done = launched(f"--workdir={workdir}", "--batch_per_chip=2", *options)
    assert done.returncode == 0, done.stderr
    return json.loads((workdir / "preflight.json").read_text())


@CUDA
def test_gpus(tmp_path: pathlib.Path):
    """The command for one GPU and for two."""
    result = told(tmp_path, "--topology=h100:1,h100:2")
    one, two = (result[name]["train"] for name in ("h100:1", "h100:2"))
    assert one["fits"]
    assert one["flops_per_image"] > 1e6
    assert one["kernels"] < 200
    assert one["collectives"] == {}
    assert two["collectives"]["all-reduce"]["bytes"] > 4 * 5000


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler, the extra [tpu]")
def test_slices(tmp_path: pathlib.Path):
    """The command for one chip and for four, in its own process: libtpu can be loaded only while no TPU is in use."""
    result = told(tmp_path, "--topology=v5e:1x1,v5e:2x2")
    assert [result[name]["chips"] for name in ("v5e:1x1", "v5e:2x2")] == [1, 4]
    train = result["v5e:2x2"]["train"]
    assert train["fits"]
    assert train["collectives"]["all-reduce"]["bytes"] > 4 * 5000
    assert 0 < train["scaling_efficiency"]["256"] < train["scaling_efficiency"]["1"] == 1
    assert result["v5e:1x1"]["train"]["collectives"] == {}
    unknown = launched("--topology=v5e:3x3")
    assert unknown.returncode == 1
    assert "error: --topology=v5e:3x3 is not known to the TPU compiler" in unknown.stderr
