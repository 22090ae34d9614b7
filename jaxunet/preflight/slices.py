"""Names of accelerators that are not there -> devices to compile for: "v5e:2x2" is a TPU slice, "h100:8" eight GPUs.

The compilers are part of JAX's packages for TPUs and GPUs. They run on any Linux machine, without a chip or a driver.
"""

import importlib.util
import os
from typing import Any

import jax

from jaxunet.core.errors import UserError

GPUS_OF_A_HOST = 8

# What the CUDA compiler must know of a card, as published by NVIDIA and in openxla/xla. Per card: JAX's `device_kind`,
# multiprocessors, float32 units of each, shared memory of each and of a block (most) in bytes, clock in GHz, L2 cache
# in bytes, memory in bytes and its bytes per second, compute capability.
_CARDS = {
    "a100": ("NVIDIA A100-SXM4-80GB", 108, 64, 167936, 166912, 1.41, 41943040, 85100068864, 2039e9, "major: 8"),
    "h100": ("NVIDIA H100 80GB HBM3", 132, 128, 233472, 232448, 1.98, 52428800, 84942979072, 3352e9, "major: 9"),
    "h200": ("NVIDIA H200", 132, 128, 233472, 232448, 1.98, 52428800, 151397597184, 4800e9, "major: 9"),
    "b200": ("NVIDIA B200", 148, 128, 233472, 232448, 1.965, 132644864, 191514411008, 7672e9, "major: 10"),
}


def devices(topology: str) -> list[jax.Device]:
    """Devices of `topology`: "local" or "cpu" for those present, a TPU slice, or a GPU and its number (1 to 8). Raises
    UserError if the name is unknown or its compiler is not installed."""
    if topology in ("local", "cpu"):
        return jax.devices()
    card, _, number = topology.partition(":")
    if card in _CARDS:
        return _gpus(topology, card, number)
    return _tpu_slice(topology)


def _gpus(topology: str, card: str, number: str) -> list[jax.Device]:
    if number not in map(str, range(1, GPUS_OF_A_HOST + 1)):
        raise UserError(f"--topology={topology} is unknown: use {card}:1 to {card}:{GPUS_OF_A_HOST}, GPUs of one host.")
    if not any(importlib.util.find_spec(f"jax_{cuda}_plugin") for cuda in ("cuda12", "cuda13")):
        raise UserError(f"--topology={topology} needs the CUDA compiler: pip install 'jaxunet[cuda12]' (on any Linux).")
    options = {"topology": f"1x1x{number}", "target_config": _target(card)}  # slices x hosts x GPUs of a host
    return _described(topology, "cuda", card, "h100:8", **options)


def _target(card: str) -> str:
    """XLA's GpuTargetConfigProto in text form."""
    kind, cores, units, shared, shared_block, clock, cache, memory, bandwidth, capability = _CARDS[card]
    if capability != "major: 8":
        capability += " feature_extension: ACCELERATED_FEATURES"
    return f"""
    gpu_device_info {{
      core_count: {cores} fpus_per_core: {units} clock_rate_ghz: {clock} cuda_compute_capability {{ {capability} }}
      device_memory_size: {memory} memory_bandwidth: {bandwidth:.0f} l2_cache_size: {cache}
      shared_memory_per_core: {shared} shared_memory_per_block_optin: {shared_block} shared_memory_per_block: 49152
      threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
      registers_per_core_limit: 65536 registers_per_block_limit: 65536
      thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
      block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
    }}
    platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} runtime_version {{ major: 12 minor: 8 }}
    device_description_str: "{kind}"
    """


def _tpu_slice(topology: str) -> list[jax.Device]:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"--topology={topology} needs the TPU compiler: pip install 'jaxunet[tpu]' (on any Linux).")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no metadata server of a TPU VM
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    options: dict[str, Any] = {}
    if topology.startswith("v4"):
        options["chip_config_name"] = "megacore"  # one device per chip, as on TPU VMs
    if set(topology.partition(":")[2].split("x")) == {"1"}:
        options["chips_per_host_bounds"] = [1, 1, 1]  # newer compilers require it
    return _described(topology, "tpu", topology, "v5e:2x2, v6e:4x4 or h100:8", **options)


def _described(asked: str, platform: str, name: str, examples: str, /, **options: Any) -> list[jax.Device]:
    from jax.experimental import topologies

    try:
        description = topologies.get_topology_desc(platform=platform, topology_name=name, **options)
    except Exception as error:  # the plug-ins raise many types
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--topology={asked} is not known to the {platform.upper()} compiler ({reason}): use a name such as "
            f"{examples}."
        ) from error
    return list(description.devices)
