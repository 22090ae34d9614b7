"""`--mode=preflight`: memory, work and speed bounds of a config on accelerators that are not there.

The compiler for TPUs (the extra `[tpu]`) or GPUs (`[cuda12]`) compiles the config's training and evaluation steps for
the named topology; nothing runs. Memory, and for TPUs work, are the compiler's figures. Memory traffic, and for GPUs
work, are read from its program. Times are work and traffic divided by the chip's peak rates: bounds, not measurements.
"""

import dataclasses
import functools
import json
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.core.files import write_atomically
from jaxunet.data.specs import LABELLED_IMAGES, image_size, train_images
from jaxunet.data.targets import COVID19, answers_covid19, mask_targets
from jaxunet.devices import peak_rates, replicas
from jaxunet.devices.replicas import AXIS
from jaxunet.models.build import build_model
from jaxunet.preflight import hlo, roofline, slices
from jaxunet.preflight.traffic import memory_traffic
from jaxunet.runs import checks
from jaxunet.runs.config_file import from_json, to_json
from jaxunet.scoring.counts import batch_dice
from jaxunet.scoring.losses import build_loss
from jaxunet.scoring.split_pass import eval_step
from jaxunet.training import programs
from jaxunet.training.optimizer import build_optimizer
from jaxunet.training.state import create_train_state


def preflight(
    config: ConfigDict, topologies: list[str], workdir: pathlib.Path | None, *, batch_per_chip: int
) -> dict[str, Any]:
    """Compiles `config`, of a segmentation run, for each topology, such as "v5e:2x2", "h100:8", or "local" (or "cpu")
    for the devices present; prints the figures, and writes `preflight.json` into `workdir`, if given.

    `batch_per_chip`: images per step and chip; 0 divides `config.train.batch_size` over the chips. Raises UserError for
    an unknown topology, or if its compiler is not installed.
    """
    if not topologies:
        raise UserError("--topology is missing: name accelerators, such as --topology=v5e:2x2,h100:8, or local.")
    if "local" not in topologies:
        jax.config.update("jax_platforms", "cpu")  # compilers shall compile, and not look for chips
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # several processes may compile at the same time
    checks.check(config, training=False)
    if config.dataset.name == LABELLED_IMAGES:
        raise UserError("--mode=preflight is for segmentation: choose a config whose network predicts masks.")
    found = {name: slices.devices(name) for name in topologies}  # check all names first: compiling takes minutes
    results = {}
    for name, devices in found.items():
        chip = peak_rates.peak(devices[0].device_kind)
        per_chip = _batch_per_chip(config, name, len(devices), batch_per_chip)
        here = from_json(to_json(config))
        platform = devices[0].platform  # "auto" would choose for this machine, not for the slice
        if here.model.dtype == "auto":
            here.model.dtype = "float32" if platform == "cpu" else "bfloat16"
        if here.model.layout == "auto":
            here.model.layout = "patches" if platform == "tpu" else "plain"
        print(f"{name}: {len(devices)} x {devices[0].device_kind}, {per_chip} images per chip; compiling", flush=True)
        lowered = {"train": _lower_train(here, devices, per_chip), "eval": _lower_eval(here, devices, per_chip)}
        results[name] = {
            "chips": len(devices),
            "device_kind": devices[0].device_kind,
            "batch_per_chip": per_chip,
            "peak_rates": dataclasses.asdict(chip) if chip else None,
            **{kind: _examine(program, len(devices), per_chip, chip) for kind, program in lowered.items()},
        }
        if chip and "flops_per_image" in results[name]["train"]:
            state = _bytes(lowered["train"].in_avals[0][0])
            own = config.train.batch_size / len(devices)
            results[name]["train"] |= roofline.batches(results[name]["train"], chip, per_chip, state=state, own=own)
        print(roofline.table(results[name]), flush=True)
    if workdir:
        write_atomically(workdir / "preflight.json", json.dumps(results, indent=2) + "\n")
        print(f"Written to {workdir / 'preflight.json'}")
    return results


def _batch_per_chip(config: ConfigDict, topology: str, chips: int, batch_per_chip: int) -> int:
    batch = batch_per_chip * chips or config.train.batch_size
    if batch % (chips * config.train.accumulate_steps):
        raise UserError(
            f"{batch} images per step cannot be divided over the {chips} chips of {topology} in "
            f"config.train.accumulate_steps={config.train.accumulate_steps} parts: set --batch_per_chip to a multiple "
            f"of the parts."
        )
    return batch // chips


def _lower_train(config: ConfigDict, devices: list[jax.Device], per_chip: int) -> jax.stages.Lowered:
    """One training step, on resident arrays of the published size or on a batch from the host.

    For GPUs it is the loop of several steps, because there the loop changes the form of the state (flat.py).
    """
    targets, images, size = config.dataset.targets, train_images(config.dataset), image_size(config.dataset)
    model = build_model(config.model, targets, axis_name=AXIS if config.model.bn_sync else None)
    tx = build_optimizer(config.optimizer, lambda step: config.optimizer.learning_rate)
    step = programs.build_step(config, model, tx, build_loss(config.loss, targets), batch_dice)
    make_batch = programs.build_make_batch(config)
    batch, shape = per_chip * len(devices), (size, size, 1)
    state = jax.eval_shape(
        lambda: create_train_state(model, tx, seed=0, image_shape=shape, ema=config.train.ema_decay > 0)
    )
    replicas = jax.ShapeDtypeStruct((len(devices),), jnp.int32)
    if not programs.is_resident(config, images, shape):
        program = programs.streamed_program(step, make_batch, batch_size=batch, devices=devices)
        return program.lower(state, _raw((len(devices), per_chip), size, targets), replicas)
    sizes = {"batch_size": batch, "num_examples": images, "max_steps": 2 if devices[0].platform == "gpu" else 1}
    program = programs.resident_program(step, make_batch, seed=config.seed, **sizes, devices=devices)
    return program.lower(state, _raw((images,), size, targets), jax.ShapeDtypeStruct((), jnp.int32), replicas)


def _lower_eval(config: ConfigDict, devices: list[jax.Device], per_chip: int) -> jax.stages.Lowered:
    size, targets = image_size(config.dataset), config.dataset.targets
    model = build_model(config.model, targets, axis_name=None)
    variables = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, size, size, 1))
    )
    program = replicas.eval_program(
        functools.partial(eval_step, model=model, threshold=config.eval.threshold), devices=devices
    )
    return program.lower(variables, _raw((len(devices), per_chip), size, targets))


def _raw(leading: tuple[int, ...], size: int, targets: Sequence[str]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of raw examples, as `data/examples.py` describes them."""
    raw = {
        "image": jax.ShapeDtypeStruct((*leading, size, size), jnp.uint8),
        "mask": jax.ShapeDtypeStruct((*leading, size, size // 8, len(mask_targets(targets))), jnp.uint8),
    }
    return raw | ({COVID19: jax.ShapeDtypeStruct(leading, jnp.uint8)} if answers_covid19(targets) else {})


def _bytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _examine(lowered: jax.stages.Lowered, chips: int, per_chip: int, chip: peak_rates.Peak | None) -> dict[str, Any]:
    """Compiles the program. Figures are bytes, FLOPs and seconds, per chip and step unless the key says per image."""
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"compile_seconds": round(time.perf_counter() - start, 1), **roofline.too_large(str(error), per_chip)}
    seconds = time.perf_counter() - start
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None
    assert text is not None
    text = hlo.step_of_loop(text)
    moved = memory_traffic(text)
    cost = compiled.cost_analysis() or {"flops": hlo.arithmetic(text), "bytes accessed": moved}  # GPUs give None
    fixed = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    fixed += memory.generated_code_size_in_bytes
    result: dict[str, Any] = {
        "compile_seconds": round(seconds, 1),
        "flops_per_image": cost.get("flops", 0.0) / per_chip,
        "bytes_per_image": cost.get("bytes accessed", 0.0) / per_chip,
        "hbm_bytes_per_image": moved / per_chip,
        "temp_bytes_per_image": memory.temp_size_in_bytes / per_chip,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "peak_bytes": fixed + memory.temp_size_in_bytes,
        "kernels": hlo.kernels(text),
        "collectives": hlo.collectives(text),
        "padding": hlo.padding(text),
    }
    return result | (roofline.project(result, chip, chips=chips, per_chip=per_chip) if chip else {})
