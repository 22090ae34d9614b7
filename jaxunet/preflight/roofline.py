"""Bounds from the compiler's figures and a chip's peak rates: what fits in memory, the highest speed, the scaling.

`preflight` calls this. Nothing here is measured.
"""

import re
from typing import Any

from jaxunet.devices.peak_rates import Peak

_SCALES = (1, 4, 16, 64, 256)
_HOP_SECONDS = 1e-6  # between neighbouring chips; an order of magnitude: no data sheet gives it


def project(result: dict[str, Any], chip: Peak, *, chips: int, per_chip: int) -> dict[str, Any]:
    """Bounds on `chip` for `result`, the figures of a program compiled for `per_chip` images on each of `chips`: lower
    bounds of seconds per step, upper bounds of images per second and chip.

    `scaling_efficiency`: number of chips -> speed per chip, as a share of one chip's, if no exchange overlaps with
    computing. The largest batch assumes that temporaries grow in proportion to the batch and the rest stays.
    """
    compute = result["flops_per_image"] * per_chip / chip.flops
    traffic = result["hbm_bytes_per_image"] * per_chip / chip.bandwidth
    step = max(compute, traffic)
    usable = chip.usable * chip.memory
    room = usable - (result["peak_bytes"] - result["temp_bytes"])
    scales = sorted({n for n in _SCALES if n <= chip.joined} | {chips})
    exchanged = bool(result["collectives"])
    exchange = {n: exchange_seconds(result["collectives"], chip, n) for n in scales}
    return {
        "fits": result["peak_bytes"] <= usable,
        "largest_batch_that_fits": max(int(room / result["temp_bytes_per_image"]), 0) if result["temp_bytes"] else None,
        "roofline_compute_seconds": compute,
        "roofline_memory_seconds": traffic,
        "collective_seconds": exchange[chips],
        "roofline_images_per_second_per_chip": per_chip / (step + exchange[chips]),
        "scaling_efficiency": {str(n): step / (step + exchange[n]) for n in scales} if exchanged else {},
    }


def batches(result: dict[str, Any], chip: Peak, per_chip: int, *, state: int, own: float) -> dict[str, Any]:
    """How the speed of training depends on the batch, from figures at `per_chip` images per chip and step and those of
    `project`. `state`: bytes of the training state; each step reads and writes it once. `own`: images per chip by the
    config.

    Returns `optimizer_bytes` per step; `own_batch_per_chip` and its bound of images per second and chip;
    `bound_images_per_second_per_chip` of unlimited batches, and the smallest batch per chip that reaches 90 % of it.
    """
    fixed = 2.0 * state
    compute = result["flops_per_image"] / chip.flops
    moved = max(result["hbm_bytes_per_image"] - fixed / per_chip, 0.0)

    def speed(n: float) -> float:
        return n / (max(n * compute, (fixed + n * moved) / chip.bandwidth) + result["collective_seconds"])

    bound = 1 / max(compute, moved / chip.bandwidth)
    return {
        "optimizer_bytes": fixed,
        "own_batch_per_chip": own,
        "own_batch_images_per_second_per_chip": speed(own),
        "bound_images_per_second_per_chip": bound,
        "batch_per_chip_for_90_percent": next((n for n in range(1, 4097) if speed(n) >= 0.9 * bound), None),
    }


def exchange_seconds(collectives: dict[str, dict[str, int]], chip: Peak, chips: int) -> float:
    """Time of all collectives of a step, one after the other, each counted as an all-reduce over `chips`.

    Bytes: each chip sends 2 (n - 1) / n of them, at half the two-way bandwidth; along an axis too short for a closed
    ring, at a quarter. Latency: each collective goes there and back along every axis, hop by hop.
    """
    if chips == 1:
        return 0.0
    sides = _sides(chips, chip.axes)
    closed = [side >= chip.closed_from for side in sides]
    share = sum(1.0 if c else 0.5 for c, side in zip(closed, sides, strict=True) if side > 1) / len(sides)
    hops = sum(2 * (side // 2 if c else side - 1) for c, side in zip(closed, sides, strict=True))
    moved, count = (sum(c[key] for c in collectives.values()) for key in ("bytes", "count"))
    return 2 * (chips - 1) / chips * moved / (chip.interconnect / 2 * share) + count * hops * _HOP_SECONDS


def _sides(chips: int, axes: int) -> list[int]:
    """Sides of the most even box of `chips`: 256 chips are 16x16, or 8x8x4."""
    sides = [1] * axes
    while chips > 1:
        factor = next(f for f in range(2, chips + 1) if chips % f == 0)
        sides[sides.index(min(sides))] *= factor
        chips //= factor
    return sides


def too_large(error: str, per_chip: int) -> dict[str, Any]:
    """Figures of a program that does not fit, from the compiler's words: "... (298.21G) exceeds ... (15.75G)"."""
    sizes = [float(x) * 2**30 for x in re.findall(r"\(?\b([\d.]+)G\b", error)[:2]]
    result: dict[str, Any] = {"fits": False, "reason": " ".join(error.split())[:300]}
    if len(sizes) == 2:
        needed, available = sizes
        result |= {"peak_bytes": needed, "available_bytes": available}
        result["largest_batch_that_fits"] = int(per_chip * available / needed)
    return result


def table(result: dict[str, Any]) -> str:
    """One topology's entry of `preflight.json` as text."""
    peak, n = result["peak_rates"], result["batch_per_chip"]
    lines = [line for kind in ("train", "eval") for line in _program(kind, result[kind], peak, n)]
    if peak:
        lines.append(
            f"  peak rates per chip: {peak['flops'] / 1e12:.0f} TFLOP/s in bfloat16, "
            f"{peak['bandwidth'] / 1e9:.0f} GB/s of memory, {peak['interconnect'] / 1e9:.0f} GB/s between chips "
            f"({peak['source']}); {1e6 * _HOP_SECONDS:.0f} us per hop assumed"
        )
    else:
        lines.append(f"  peak rates of {result['device_kind']} are unknown: no times, no verdict")
    return "\n".join(lines)


def _program(kind: str, r: dict[str, Any], peak: dict[str, Any] | None, n: int) -> list[str]:
    if "flops_per_image" not in r:
        largest = r.get("largest_batch_that_fits")
        advice = f"; about {largest} images per chip may fit" if largest else ""
        return [f"  {kind}: DOES NOT FIT{advice}. The compiler says: {r['reason']}"]
    lines = [
        f"  {kind}: {r['flops_per_image'] / 1e9:.1f} GFLOP and {r['hbm_bytes_per_image'] / 1e6:.0f} MB of memory "
        f"traffic per image; {r['kernels']:,} operations per step; compiled in {r['compile_seconds']:.0f} s",
        f"    memory: {r['peak_bytes'] / 1e9:.2f} GB = arguments {r['argument_bytes'] / 1e9:.2f} + temporaries "
        f"{r['temp_bytes'] / 1e9:.2f} ({r['temp_bytes_per_image'] / 1e6:.0f} MB per image) + outputs not in place "
        f"{(r['output_bytes'] - r['alias_bytes']) / 1e9:.2f} + code {r['code_bytes'] / 1e9:.2f}",
    ]
    if peak:
        share = f", the {peak['usable']:.0%} of the memory that JAX takes" if peak["usable"] < 1 else ""
        verdict, largest = "fits" if r["fits"] else "DOES NOT FIT", r["largest_batch_that_fits"]
        about = f"; about {largest} images per chip would fit (temporaries grow with the batch)" if largest else ""
        lines += [
            f"    {verdict} in {peak['usable'] * peak['memory'] / 1e9:.0f} GB{share}{about}",
            f"    at least {1e3 * r['roofline_compute_seconds'] / n:.3f} ms of arithmetic and "
            f"{1e3 * r['roofline_memory_seconds'] / n:.3f} ms of memory traffic per image: at most "
            f"{r['roofline_images_per_second_per_chip']:,.0f} images/s per chip",
        ]
    if "optimizer_bytes" in r:
        enough, own, fixed = r["batch_per_chip_for_90_percent"], r["own_batch_per_chip"], r["optimizer_bytes"] / 1e6
        lines.append(
            f"    config.train.batch_size: {own:g} images per chip, which spend {fixed / own:,.0f} MB each on the "
            f"optimizer; at most {r['own_batch_images_per_second_per_chip']:,.0f} images/s per chip. "
            + (f"{enough} or more" if enough else "No number of images up to 4,096")
            + f" reach 90 % of the bound, {r['bound_images_per_second_per_chip']:,.0f}"
        )
    lines += [
        f"    {c['count']} x {name}, {c['bytes'] / 1e6:.1f} MB; the chip waits for {c['blocking']}"
        for name, c in r["collectives"].items()
    ]
    if r.get("scaling_efficiency"):
        shares = ", ".join(f"{n} chips {100 * e:.1f} %" for n, e in r["scaling_efficiency"].items())
        lines.append(f"    exchange {1e3 * r['collective_seconds']:.2f} ms per step; scaling without overlap: {shares}")
    factor, worst = r["padding"]["factor"], r["padding"]["worst"]
    if factor > 1.1:
        shapes = [f"{name} ({w['factor']:.1f}x, axis {w['lane_axis']} in the lanes)" for name, w in worst.items()]
        lines.append(
            f"    warning: tiles of 128 lanes pad the written arrays {factor:.2f}x; worst: {', '.join(shapes)}"
        )
        if any(w["lane_axis"] == 0 and w["factor"] > 1 for w in worst.values()):
            lines.append("      axis 0 is the batch: more images per chip, up to 128, fill the lanes")
    return lines
