"""Times a call with as many arrays as the ResNet101 U-Net's state has, with two CPU processes: ours against pmap.

python benchmarks/dispatch.py

Process 0 prints milliseconds until the call returns, median (smallest) of interleaved pairs.
"""

import pathlib
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from jaxunet.devices import processes, replicas  # noqa: E402

ARRAYS, PAIRS = 1835, 34


def run(state: list[Any], replica: Any) -> Any:
    return [x + 1 for x in state], jax.lax.pmean(replica, replicas.AXIS)


def measure(address: str, process: int) -> None:
    processes.join(address, 2, process, preemption=False)
    devices, ones = replicas.replica_devices(), [np.ones(8, np.float32)] * ARRAYS
    ours = replicas.map_replicas(run, in_axes=(None, 0), devices=devices)
    pmap = jax.pmap(run, replicas.AXIS, in_axes=(None, 0), out_axes=None, donate_argnums=0, devices=devices)
    mine = np.array([i for i, d in enumerate(devices) if d.process_index == process], np.int32)
    states = [replicas.replicate(ones), [jax.device_put(x) for x in ones]]
    calls: list[tuple[Callable[..., Any], Any]] = [(ours, replicas.replica_indices()), (pmap, mine)]
    times: list[list[float]] = [[], []]
    for _ in range(PAIRS + 6):  # the first ones compile
        for i, (call, numbers) in enumerate(calls):
            start = time.perf_counter()
            states[i], mean = call(states[i], numbers)
            times[i].append(1e3 * (time.perf_counter() - start))
            jax.block_until_ready((states[i], mean))
    if process == 0:
        words = [f"{statistics.median(t[6:]):.1f} ({min(t[6:]):.1f})" for t in times]
        print(f"jax {jax.__version__}, {ARRAYS} arrays: jit(shard_map) {words[0]} ms, pmap {words[1]} ms")


def main() -> None:
    if len(sys.argv) == 3:
        return measure(sys.argv[1], int(sys.argv[2]))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    started = [subprocess.Popen([sys.executable, __file__, address, str(i)]) for i in range(2)]
    return sys.exit(max(p.wait() for p in started))


if __name__ == "__main__":
    main()
