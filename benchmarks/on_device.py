"""Speed on the accelerator at hand, beside the bounds that preflight gives for it: one command, at most 8 minutes.

python benchmarks/on_device.py --output=on_device.json
python benchmarks/on_device.py --toy                          # seconds, on any machine: does it work?

The most telling cases come first; those that no longer fit into `--minutes` are left out and listed. Every entry has
images per second, the share of the chip's peak (operations of the plain network), and preflight's bound. Also timed:
`--mode=predict` on 1,000 files, and, where PyTorch is installed, the ResNet101 U-Net in it (segmentation_models.pytorch
if that is installed too): channels_last, bfloat16, torch.compile.
"""

import argparse
import functools
import importlib.util
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import numpy as np  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from configs import default, resnet101_unet  # noqa: E402
from jaxunet.data import augment  # noqa: E402
from jaxunet.data.specs import image_size  # noqa: E402
from jaxunet.devices import peak_rates, replicas  # noqa: E402
from jaxunet.models.build import build_model  # noqa: E402
from jaxunet.preflight import hlo, roofline  # noqa: E402
from jaxunet.preflight.traffic import memory_traffic  # noqa: E402
from jaxunet.scoring.counts import batch_dice  # noqa: E402
from jaxunet.scoring.losses import build_loss  # noqa: E402
from jaxunet.training import programs  # noqa: E402
from jaxunet.training.optimizer import build_optimizer  # noqa: E402
from jaxunet.training.state import create_train_state  # noqa: E402
from jaxunet.training.step import flops_per_image  # noqa: E402

EXAMPLES = 512


def cases(toy: bool) -> Iterator[dict[str, Any]]:
    """Network, images per chip, layout, how augmentation interpolates, steps per call; the most telling first."""
    usual = {"layout": "auto", "resampling": "auto", "steps": 50}
    if toy:
        yield {"network": "toy", "batch": 2, **usual, "steps": 2}
        yield {"network": "toy", "batch": 2, **usual, "steps": 1, "resampling": "products"}
        return
    yield from ({"network": "resnet101_unet", "batch": n, **usual} for n in (32, 128, 16, 64))
    yield {"network": "resnet101_unet", "batch": 32, **usual, "layout": "patches"}
    yield from ({"network": "unet", "batch": n, **usual} for n in (32, 128))
    yield {"network": "resnet101_unet", "batch": 32, **usual, "steps": 1}
    yield from ({"network": "unet", "batch": 32, **usual, "resampling": way} for way in ("gather", "products"))
    yield {"network": "resnet101_unet", "batch": 32, **usual, "layout": "plain"}
    yield from ({"network": "unet", "batch": n, **usual} for n in (16, 64))


def settings(case: dict[str, Any]) -> ConfigDict:
    config = (resnet101_unet if case["network"] == "resnet101_unet" else default).get_config()
    if case["network"] == "toy":
        config.model.channels, config.dataset.image_size = (4, 8), 32
    config.model.layout = case["layout"]
    config.train.batch_size = case["batch"] * jax.device_count()
    return config


def measure(case: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Compiles the training program of `case`, runs it for some `seconds`, and compares it with its bounds."""
    config, targets = settings(case), ("infection",)
    size, chips = image_size(config.dataset), jax.device_count()
    model = build_model(config.model, targets, axis_name=replicas.AXIS if config.model.bn_sync else None)
    tx = build_optimizer(config.optimizer, lambda step: config.optimizer.learning_rate)
    step = programs.build_step(config, model, tx, build_loss(config.loss, targets), batch_dice)
    sizes = {"batch_size": config.train.batch_size, "num_examples": EXAMPLES, "max_steps": case["steps"]}
    program = programs.resident_program(step, programs.build_make_batch(config), seed=0, **sizes)
    rng = np.random.default_rng(0)
    raw = {
        "image": rng.integers(0, 256, (EXAMPLES, size, size), np.uint8),
        "mask": rng.integers(0, 256, (EXAMPLES, size, size // 8, 1), np.uint8),
    }
    state = replicas.replicate(create_train_state(model, tx, seed=0, image_shape=(size, size, 1), ema=True))
    rest = replicas.replicate(raw), np.int32(case["steps"]), replicas.replica_indices()
    flops = flops_per_image(model, state.eval_variables(), (size, size, 1))

    original = augment._resample
    forms = {"gather": augment._resample_by_gather, "products": augment._resample_by_matmul}
    augment._resample = forms.get(case["resampling"], original)
    try:
        start = time.perf_counter()
        compiled = program.lower(state, *rest).compile()
    finally:
        augment._resample = original
    compile_seconds = time.perf_counter() - start
    for _ in range(2):
        state, totals = jax.block_until_ready(compiled(state, *rest))
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < seconds:
        state, totals = jax.block_until_ready(compiled(state, *rest))
        calls += 1
    speed = calls * case["steps"] * case["batch"] / (time.perf_counter() - start)
    assert np.isfinite(float(totals["loss"]))

    result = {**case, "images_per_second_per_chip": speed, "compile_seconds": compile_seconds}
    text, chip = hlo.step_of_loop(compiled.as_text()), peak_rates.peak(jax.devices()[0].device_kind)
    result |= {"kernels": hlo.kernels(text), "hbm_bytes_per_image": memory_traffic(text) / case["batch"]}
    if chip:
        memory = compiled.memory_analysis()
        figures = {
            "flops_per_image": flops,
            "hbm_bytes_per_image": result["hbm_bytes_per_image"],
            "temp_bytes": memory.temp_size_in_bytes,
            "temp_bytes_per_image": memory.temp_size_in_bytes / case["batch"],
            "peak_bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
            "collectives": hlo.collectives(text),
        }
        bound = roofline.project(figures, chip, chips=chips, per_chip=case["batch"])
        result["share_of_peak"] = speed * flops / chip.flops
        result["bound_images_per_second_per_chip"] = bound["roofline_images_per_second_per_chip"]
        result["share_of_bound"] = speed / bound["roofline_images_per_second_per_chip"]
    return result


def predict(files: int) -> dict[str, Any]:
    """Runs benchmarks/predict.py in its own process, before this one takes the accelerator's memory."""
    command = [sys.executable, str(ROOT / "benchmarks" / "predict.py"), f"--images={files}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {"files": files, "lines": done.stdout.splitlines(), "error": done.stderr[-500:] if done.returncode else ""}


def pytorch(batch: int, seconds: float) -> dict[str, Any] | None:
    """The ResNet101 U-Net's training step in PyTorch, without augmentation; None without PyTorch or a GPU for it."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    if importlib.util.find_spec("segmentation_models_pytorch"):
        import segmentation_models_pytorch as smp

        network = smp.Unet("resnet101", encoder_weights=None, in_channels=1, classes=1)
    else:
        import torch_networks

        network = torch_networks.ResNetUNet()
    network = torch.compile(network.cuda().to(memory_format=torch.channels_last))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    image = torch.rand(batch, 1, 256, 256, device="cuda").contiguous(memory_format=torch.channels_last)
    mask = (image > 0.5).float()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            logits = network(image)
        torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), mask).backward()
        optimizer.step()

    def run(n: int) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(n):
            step()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    run(5)
    n = max(1, int(seconds * 5 / run(5)))
    return {"batch": batch, "images_per_second": n * batch / run(n), "torch": torch.__version__}


def attempt(action: Callable[[], Any]) -> Any:
    """One case that fails, such as one that does not fit into memory, shall not end the others."""
    try:
        return action()
    except Exception as error:
        return {"error": " ".join(str(error).split())[:500]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", default="on_device.json")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--toy", action="store_true")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    seconds = 0.1 if args.toy else 5.0
    found: dict[str, Any] = {"predict": None if args.toy else attempt(functools.partial(predict, args.files))}
    found |= {"device_kind": jax.devices()[0].device_kind, "chips": jax.device_count(), "jax": jax.__version__}
    found |= {"training": [], "left_out": [], "pytorch": None}
    longest = 0.0
    for case in cases(args.toy):
        start = time.monotonic()
        if not args.toy and start + longest > deadline - 60:  # the last minute is PyTorch's
            found["left_out"].append(case)
            continue
        found["training"].append({**case, **attempt(functools.partial(measure, case, seconds))})
        longest = max(longest, time.monotonic() - start)
        print(json.dumps(found["training"][-1]), flush=True)
    if not args.toy:
        found["pytorch"] = attempt(functools.partial(pytorch, 32, seconds))
    pathlib.Path(args.output).write_text(json.dumps(found, indent=2) + "\n")
    print(f"Written to {args.output}")


if __name__ == "__main__":
    main()
