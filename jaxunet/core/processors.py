"""The processor cores that there are for this process, and work that is spread over all of them."""

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")
_CHUNK = 16  # items that a process takes at once


def cores() -> int:
    """The cores that this process may use; all cores if the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_all_cores(work: Callable[[Item], Result], items: Sequence[Item], words: str, *, fewest: int) -> Iterator[Result]:
    """`work` of each X-ray of `items`, in order, with a progress bar; in a process per core from `fewest` X-rays on."""
    bar = {"total": len(items), "unit": "X-ray", "desc": words, "dynamic_ncols": True}
    workers = cores()
    if workers == 1 or len(items) < fewest:  # starting processes takes longer than this
        yield from tqdm(map(work, items), **bar)
        return
    context = multiprocessing.get_context("spawn")  # not forked: JAX's threads do not survive that
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from tqdm(pool.map(work, items, chunksize=_CHUNK), **bar)
