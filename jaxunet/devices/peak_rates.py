"""Peak rates of accelerators, as their makers publish them: what measured and projected speeds are compared with."""

import dataclasses

TPU_SOURCE = "docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}"
GPU_SOURCE = "NVIDIA data sheets of A100, H100 SXM and H200 SXM (dense bfloat16)"


@dataclasses.dataclass(frozen=True)
class Peak:
    """Of one chip, and of how chips are wired.

    Attributes:
      flops: bfloat16 operations per second.
      memory: bytes.
      bandwidth: of that memory, bytes per second.
      interconnect: to other chips over all links, both directions together, bytes per second.
      axes: of the torus that chips form; 1 where a switch joins them.
      closed_from: number of chips along an axis from which it is a ring; shorter ones are open.
      joined: chips that this interconnect joins at most.
      source: where the figures are published.
    """

    flops: float
    memory: float
    bandwidth: float
    interconnect: float
    axes: int
    closed_from: int
    joined: int
    source: str


_PEAKS = {  # JAX's `device_kind` -> rates
    # Of v4, all-reduce bandwidth per pod over its chips (1.1 PB/s, 4,096), which is one direction of the others'.
    "TPU v4": Peak(275e12, 32 * 2**30, 1200e9, 2 * 1.1e15 / 4096, 3, 4, 4096, TPU_SOURCE),
    "TPU v5 lite": Peak(197e12, 16e9, 819e9, 400e9, 2, 16, 256, TPU_SOURCE),
    "TPU v5": Peak(459e12, 95 * 2**30, 2765e9, 1200e9, 3, 4, 8960, TPU_SOURCE),
    "TPU v6 lite": Peak(918e12, 32e9, 1638e9, 800e9, 2, 16, 256, TPU_SOURCE),
    "NVIDIA A100-SXM4-80GB": Peak(312e12, 80e9, 2039e9, 600e9, 1, 1, 8, GPU_SOURCE),
    "NVIDIA H100 80GB HBM3": Peak(989e12, 80e9, 3350e9, 900e9, 1, 1, 8, GPU_SOURCE),
    "NVIDIA H200": Peak(989e12, 141e9, 4800e9, 900e9, 1, 1, 8, GPU_SOURCE),
}


def peak(device_kind: str) -> Peak | None:
    """Rates of the chip that JAX calls `device_kind`; None where they are not known, as for CPUs."""
    return _PEAKS.get(device_kind)
