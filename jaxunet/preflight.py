"""`--mode=preflight`: what a config will do on a slice, from compiling it ahead of time on a machine without one.

The train and evaluation steps of the config are compiled by the TPU compiler (libtpu, the extra `[tpu]`) for the named
topology; nothing is run. Compiled is one step of the many that a dispatch runs in a loop: the compiler's figures count
a loop's body once anyway. Memory and traffic are the compiler's own; times are its figures over the chip's peak rates,
so they are bounds, not measurements.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxunet import config as config_lib
from jaxunet import hardware, hlo, parallel
from jaxunet.atomic import write_atomically
from jaxunet.errors import UserError
from jaxunet.losses import build_loss
from jaxunet.metrics import batch_dice
from jaxunet.models import build_model
from jaxunet.optimizer import build_optimizer
from jaxunet.train_state import create_train_state
from jaxunet.train_step import augmented_batch, eval_step, train_step

_TRAIN_IMAGES = {"infection": 1864, "infection_all": 3728, "lung": 21715}  # published counts of COVID-QU-Ex
_SCALES = (1, 4, 16, 64, 256)


def preflight(
    config: ConfigDict, topologies: list[str], workdir: pathlib.Path | None, *, batch_per_chip: int
) -> dict[str, Any]:
    """Compiles for each topology, prints what was found, and writes `preflight.json` into `workdir` if there is one.

    Args:
      config: of a segmentation run.
      topologies: such as "v5e:2x2", or "local" (or "cpu") for the devices present.
      workdir: a folder, or None.
      batch_per_chip: images per step and chip; 0 divides `config.train.batch_size` over the chips.

    Raises:
      UserError: for an unknown topology, or where libtpu is not installed.
    """
    if not topologies:
        raise UserError("--topology is missing: name slices, such as --topology=v5e:1x1,v5e:2x2, or local.")
    if "local" not in topologies:
        jax.config.update("jax_platforms", "cpu")  # libtpu is here to compile, not to look for a TPU
    config_lib.check(config, training=False)
    given, results = config, {}
    for name in topologies:
        config = config_lib.from_json(config_lib.to_json(given))
        devices = _devices(name)
        chip = hardware.peak(devices[0].device_kind)
        per_chip = batch_per_chip or config.train.batch_size // len(devices)
        if per_chip == 0:
            raise UserError(
                f"config.train.batch_size={config.train.batch_size} leaves some of the {len(devices)} chips of {name} "
                f"without an image: raise it, or set --batch_per_chip."
            )
        accelerator = devices[0].platform != "cpu"  # "auto" asks the machine this runs on, which need not be the one
        if config.model.dtype == "auto":
            config.model.dtype = "bfloat16" if accelerator else "float32"
        if config.model.layout == "auto":
            config.model.layout = "patches" if accelerator else "plain"
        print(f"{name}: {len(devices)} x {devices[0].device_kind}, {per_chip} images per chip; compiling", flush=True)
        programs = {"train": _lower_train(config, devices, per_chip), "eval": _lower_eval(config, devices, per_chip)}
        results[name] = {
            "chips": len(devices),
            "device_kind": devices[0].device_kind,
            "batch_per_chip": per_chip,
            "peak_rates": dataclasses.asdict(chip) if chip else None,
            **{kind: _examine(lowered, len(devices), per_chip, chip) for kind, lowered in programs.items()},
        }
        print(_table(results[name]), flush=True)
    if workdir:
        write_atomically(workdir / "preflight.json", json.dumps(results, indent=2) + "\n")
        print(f"Written to {workdir / 'preflight.json'}")
    return results


def _devices(topology: str) -> list[jax.Device]:
    if topology in ("local", "cpu"):
        return jax.devices()
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"--topology={topology} needs the TPU compiler: pip install 'jaxunet[tpu]' (on any Linux).")
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU VM's metadata server to ask
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # several may compile at once, as no TPU is held
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:  # whatever the plug-in raises
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--topology={topology} is not known to the TPU compiler ({reason}): use names like v5e:2x2, v6e:4x4."
        ) from error


def _lower_train(config: ConfigDict, devices: list[jax.Device], per_chip: int) -> jax.stages.Lowered:
    """One step, from resident arrays of the published size to the next state."""
    targets, dataset = config.dataset.targets, config.dataset
    images = dataset.synthetic.train if dataset.name == "synthetic_cxr" else _TRAIN_IMAGES[dataset.train_config]
    size = dataset.image_size or 256
    model = build_model(config.model, classes=len(targets), axis_name=parallel.AXIS if config.model.bn_sync else None)
    tx = build_optimizer(config.optimizer, lambda step: config.optimizer.learning_rate)
    step = functools.partial(
        train_step,
        model=model,
        loss_fn=build_loss(config.loss),
        score_fn=batch_dice,
        tx=tx,
        accumulate_steps=config.train.accumulate_steps,
        ema_decay=config.train.ema_decay,
        reduce=parallel.reduce_mean,
    )
    program = parallel.resident_program(
        step,
        functools.partial(augmented_batch, seed=config.seed, augment=config.augment),
        seed=config.seed,
        batch_size=per_chip * len(devices),
        num_examples=images,
        max_steps=1,
        devices=devices,
    )
    state = jax.eval_shape(
        lambda: create_train_state(model, tx, seed=0, image_shape=(size, size, 1), ema=config.train.ema_decay > 0)
    )
    arrays = {
        "image": jax.ShapeDtypeStruct((images, size, size), jnp.uint8),
        "mask": jax.ShapeDtypeStruct((images, size, size // 8, len(targets)), jnp.uint8),
    }
    return program.lower(state, arrays, jax.ShapeDtypeStruct((), jnp.int32), _per_chip(devices, (), jnp.int32))


def _lower_eval(config: ConfigDict, devices: list[jax.Device], per_chip: int) -> jax.stages.Lowered:
    size, targets = config.dataset.image_size or 256, config.dataset.targets
    model = build_model(config.model, classes=len(targets), axis_name=None)
    variables = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, size, size, 1))
    )
    program = parallel.eval_program(
        functools.partial(eval_step, model=model, threshold=config.eval.threshold), devices=devices
    )
    raw = {
        "image": _per_chip(devices, (per_chip, size, size), jnp.uint8),
        "mask": _per_chip(devices, (per_chip, size, size // 8, len(targets)), jnp.uint8),
    }
    return program.lower(variables, raw)


def _per_chip(devices: list[jax.Device], shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((len(devices), *shape), dtype)


def _examine(lowered: jax.stages.Lowered, chips: int, per_chip: int, chip: hardware.Peak | None) -> dict[str, Any]:
    """Compiles; everything in the result is per chip and step, or per image where it says so. Bytes and seconds."""
    start = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    cost, memory, text = compiled.cost_analysis(), compiled.memory_analysis(), compiled.as_text()
    fixed = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    fixed += memory.generated_code_size_in_bytes
    collectives = hlo.collectives(text)
    moved = sum(c["bytes"] for c in collectives.values())
    result: dict[str, Any] = {
        "compile_seconds": round(seconds, 1),
        "flops_per_image": cost.get("flops", 0.0) / per_chip,
        "bytes_per_image": cost.get("bytes accessed", 0.0) / per_chip,
        "main_memory_bytes_per_image": hlo.main_memory_bytes(text) / per_chip,
        "temp_bytes_per_image": memory.temp_size_in_bytes / per_chip,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "peak_bytes": fixed + memory.temp_size_in_bytes,
        "collectives": collectives,
        "padding": hlo.padding(text),
    }
    if chip is None:
        return result
    compute = cost.get("flops", 0.0) / chip.flops
    traffic = per_chip * result["main_memory_bytes_per_image"] / chip.bandwidth
    step = max(compute, traffic)

    def exchange(n: int) -> float:  # ring all-reduce: 2 (n - 1) / n of the bytes leave over half the two-way bandwidth
        return 2 * (n - 1) / n * moved / (chip.interconnect / 2)

    return result | {
        "fits": result["peak_bytes"] <= chip.memory,
        "largest_batch_that_fits": int((chip.memory - fixed) / result["temp_bytes_per_image"]),
        "roofline_compute_seconds": compute,
        "roofline_memory_seconds": traffic,
        "collective_seconds": exchange(chips),
        "roofline_images_per_second_per_chip": per_chip / (step + exchange(chips)),
        "scaling_efficiency": {str(n): step / (step + exchange(n)) for n in _SCALES} if moved else {},
    }


def _table(result: dict[str, Any]) -> str:
    lines = []
    for kind in ("train", "eval"):
        r, n = result[kind], result["batch_per_chip"]
        lines.append(
            f"  {kind}, per image: {r['flops_per_image'] / 1e9:.1f} GFLOP, {r['bytes_per_image'] / 1e6:.0f} MB moved, "
            f"of which {r['main_memory_bytes_per_image'] / 1e6:.0f} MB to and from main memory; compiled in "
            f"{r['compile_seconds']:.0f} s"
        )
        lines.append(
            f"    memory: {r['peak_bytes'] / 1e9:.2f} GB = arguments {r['argument_bytes'] / 1e9:.2f} + temporaries "
            f"{r['temp_bytes'] / 1e9:.2f} ({r['temp_bytes_per_image'] / 1e6:.0f} MB per image) + outputs not in place "
            f"{(r['output_bytes'] - r['alias_bytes']) / 1e9:.2f} + code {r['code_bytes'] / 1e9:.2f}"
        )
        if "fits" in r:
            verdict = "fits" if r["fits"] else "DOES NOT FIT"
            lines.append(
                f"    {verdict} in {result['peak_rates']['memory'] / 1e9:.0f} GB; about "
                f"{r['largest_batch_that_fits']} images per chip would (temporaries grow with the batch)"
            )
            lines.append(
                f"    at least {1e3 * r['roofline_compute_seconds'] / n:.3f} ms of arithmetic and "
                f"{1e3 * r['roofline_memory_seconds'] / n:.3f} ms of memory traffic per image: at most "
                f"{r['roofline_images_per_second_per_chip']:,.0f} images/s per chip"
            )
        for name, c in r["collectives"].items():
            lines.append(f"    {c['count']} x {name}, {c['bytes'] / 1e6:.1f} MB")
        if r.get("scaling_efficiency"):
            shares = ", ".join(f"{n} chips {100 * e:.1f} %" for n, e in r["scaling_efficiency"].items())
            lines.append(f"    exchange {1e3 * r['collective_seconds']:.2f} ms a step; scaling, none hidden: {shares}")
        if r["padding"]["factor"] > 1.25:
            worst = ", ".join(f"{shape} ({factor:.1f}x)" for shape, factor in r["padding"]["worst"].items())
            lines.append(f"    warning: tiles pad what is written {r['padding']['factor']:.2f}x; worst: {worst}")
    if result["peak_rates"]:
        lines.append(f"  peak rates: {result['peak_rates']['source']}")
    return "\n".join(lines)
