"""Peak rates of accelerators, as published by their makers. Measured and projected speeds are compared with them."""

import dataclasses

TPU_SOURCE = "docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}"
GPU_SOURCE = "NVIDIA data sheets of A100, H100 SXM, H200 SXM and HGX B200 (dense bfloat16)"


@dataclasses.dataclass(frozen=True)
class Peak:
    """Peak rates of one chip and of its interconnect.

    Attributes:
      flops: bfloat16 operations per second.
      memory: bytes.
      bandwidth: bytes per second of that memory.
      interconnect: bytes per second to other chips, over all links, both directions together.
      axes: axes of the torus that chips form; 1 if a switch joins them.
      closed_from: an axis with at least this many chips is a ring; a shorter axis is an open line.
      joined: the most chips that the interconnect joins.
      source: where the figures are published.
      usable: share of the memory that JAX takes; on GPUs three quarters, unless XLA_PYTHON_CLIENT_MEM_FRACTION is set.
    """

    flops: float
    memory: float
    bandwidth: float
    interconnect: float
    axes: int
    closed_from: int
    joined: int
    source: str
    usable: float = 1.0


_PEAKS = {  # JAX's `device_kind` -> rates
    # For v4 only the all-reduce bandwidth of a pod is published (1.1 PB/s, 4,096 chips): one direction.
    "TPU v4": Peak(275e12, 32 * 2**30, 1200e9, 2 * 1.1e15 / 4096, 3, 4, 4096, TPU_SOURCE),
    "TPU v5 lite": Peak(197e12, 16e9, 819e9, 400e9, 2, 16, 256, TPU_SOURCE),
    "TPU v5": Peak(459e12, 95 * 2**30, 2765e9, 1200e9, 3, 4, 8960, TPU_SOURCE),
    "TPU v6 lite": Peak(918e12, 32e9, 1638e9, 800e9, 2, 16, 256, TPU_SOURCE),
    "NVIDIA A100-SXM4-80GB": Peak(312e12, 80e9, 2039e9, 600e9, 1, 1, 8, GPU_SOURCE, 0.75),
    "NVIDIA H100 80GB HBM3": Peak(989e12, 80e9, 3350e9, 900e9, 1, 1, 8, GPU_SOURCE, 0.75),
    "NVIDIA H200": Peak(989e12, 141e9, 4800e9, 900e9, 1, 1, 8, GPU_SOURCE, 0.75),
    "NVIDIA B200": Peak(2250e12, 180e9, 7700e9, 1800e9, 1, 1, 8, GPU_SOURCE, 0.75),
}


def peak(device_kind: str) -> Peak | None:
    """Rates of the chip that JAX calls `device_kind`; None if they are not known, as for CPUs."""
    return _PEAKS.get(device_kind)
