"""Several processes that train together, such as the hosts of a TPU pod slice: joining, agreeing, stopping.

Everything here does nothing, or asks nobody, where there is one process. Devices are `replicas.py`'s matter.
"""

import contextlib
import functools
import hashlib
import itertools
import os
import pathlib
import random
import re
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxunet.core.errors import UserError

HEARTBEAT_SECONDS = 40  # a process silent for so long is taken for dead, and the others end; JAX's default is 100
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")  # all set by srun
_PATIENCE_SECONDS = 20
_calls = itertools.count(1)


def join(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None, *, preemption: bool
) -> None:
    """Makes this process one of several, if the arguments or the environment say so; call it before any use of JAX.

    Args:
      coordinator_address: "host:port" of process 0, on which it will listen; None, like the two others, to ask SLURM,
        Open MPI, GKE or the TPU VM.
      num_processes: of all; 1 keeps this process alone whatever the environment says.
      process_id: of this one, from 0.
      preemption: let JAX watch for SIGTERM, as `stop_request` needs. SIGTERM then no longer ends the process.

    Raises:
      UserError: if the arguments do not fit together, or the processes do not find each other.
    """
    given = (coordinator_address, num_processes, process_id)
    if num_processes == 1:
        return
    if any(x is not None for x in given):
        if None in given:
            raise UserError("--coordinator_address, --num_processes and --process_id go together: give all three.")
        if num_processes < 1 or not 0 <= process_id < num_processes:
            raise UserError(
                f"--process_id={process_id} of --num_processes={num_processes} cannot be: count processes from 0."
            )
        if not re.fullmatch(r".+:\d+", coordinator_address):
            raise UserError(f"--coordinator_address={coordinator_address!r} is not HOST:PORT, such as 10.0.0.2:8476.")
        expected, where = num_processes, {"cluster_detection_method": "deactivate"}
        where |= dict(zip(("coordinator_address", "num_processes", "process_id"), given, strict=True))
    else:
        expected, where = detected_processes(), {}
        if expected == 1:
            return
    jax.config.update("jax_enable_preemption_service", preemption)
    waiting = threading.Timer(  # JAX gives up after 5 minutes, and ends the process without a chance to say more
        _PATIENCE_SECONDS,
        print,
        [f"Waiting for the {expected} processes to be started. --num_processes=1 runs one alone."],
        {"file": sys.stderr, "flush": True},
    )
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECONDS, **where)
        found = jax.process_count()
        multihost_utils.sync_global_devices("joined")  # CPUs connect at their first exchange, within 30 s or never
    except Exception as error:  # whatever JAX and its network layer raise
        raise UserError(
            f"The {expected} processes did not find each other ({' '.join(str(error).split())[:200]}): say who is who "
            f"with --coordinator_address, --num_processes and --process_id, or run one alone with --num_processes=1."
        ) from error
    finally:
        waiting.cancel()
    if found != expected:
        raise UserError(f"{expected} processes were started, but JAX sees {found}: does it use the right devices?")
    devices = gather(np.array([jax.local_device_count()]))[:, 0].tolist()
    if len(set(devices)) > 1:
        raise UserError(f"The processes have {devices} devices: each must have equally many.")


def detected_processes() -> int:
    """How many processes the environment starts together; 1 where it says nothing.

    Looked at is what `jax.distributed.initialize` goes by, but it fails where it finds nothing, and one process needs
    none of it. `import jax` sets TPU_SKIP_MDS_QUERY on machines without TPU chips.
    """
    env = os.environ
    if "OMPI_COMM_WORLD_SIZE" in env:
        return int(env["OMPI_COMM_WORLD_SIZE"])
    if all(name in env for name in _SLURM):
        return int(env["SLURM_NTASKS"])
    slices = env.get("MEGASCALE_NUM_SLICES")
    workers = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES")  # GKE
    if not workers and "TPU_SKIP_MDS_QUERY" not in env:
        workers = _metadata("attributes/worker-network-endpoints")
        found = re.search(r"^\s*MEGASCALE_NUM_SLICES:\s*'?(\d+)", _metadata("attributes/tpu-env"), re.MULTILINE)
        slices = slices or (found and found[1])
    return len(workers.split(",")) * int(slices or 1) if workers else 1


def _metadata(key: str, timeout: float | None = 5) -> str:
    """What Google Cloud says about this virtual machine; "" where it says nothing."""
    host = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/{key}", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return response.read().decode()
    except (urllib.error.URLError, OSError):
        return ""


def several() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the process that prints, and writes everything but checkpoints."""
    return not several() or jax.process_index() == 0


def name() -> str:
    """ " (process 1 of 4)", counted from 0; "" if there is one."""
    return f" (process {jax.process_index()} of {jax.process_count()})" if several() else ""


@contextlib.contextmanager
def only_first_prints() -> Iterator[None]:
    """What other processes print goes nowhere; errors, which go to stderr, are said by whoever has them."""
    if is_first():
        yield
        return
    with pathlib.Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


@contextlib.contextmanager
def first_then_others() -> Iterator[None]:
    """The first process does what is inside while the others wait; then they do it, all at a time."""
    if not is_first():
        multihost_utils.sync_global_devices("the first process is done")
    yield
    if several() and is_first():
        multihost_utils.sync_global_devices("the first process is done")


def gather(x: np.ndarray) -> np.ndarray:
    """[...] of each process -> [processes, ...], the same on all; of 32 bits at most per number."""
    return np.asarray(multihost_utils.process_allgather(x)) if several() else x[None]


def check_same(what: str, text: str) -> None:
    """Raises UserError on all processes if `text` is not the same on all; `what` says in a few words what it is."""
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32)
    others = gather(digest)
    if different := [i for i, other in enumerate(others) if not np.array_equal(other, others[0])]:
        raise UserError(f"{what} of process {different[0]} are not those of process 0: give all processes the same.")


def check_shared(folder: pathlib.Path) -> None:
    """Raises UserError on all processes if `folder` is not one and the same for all: each writes a part of a
    checkpoint into it."""
    if not several():
        return
    probe = folder / f".shared-{gather(np.uint32(random.getrandbits(32))[None])[0, 0]}"
    if is_first():
        probe.touch()
    multihost_utils.sync_global_devices("probe written")
    seen = gather(np.array([probe.exists()]))[:, 0]
    if is_first():
        probe.unlink()
    if not seen.all():
        raise UserError(
            f"{folder} is not the same folder for processes 0 and {np.flatnonzero(~seen)[0]}: choose one on a file "
            f"system that all hosts share."
        )


@contextlib.contextmanager
def stop_request() -> Iterator[Callable[[], bool]]:
    """Yields what tells whether to save and leave.

    SIGTERM or Ctrl-C asks for it; a second one ends the process as usual. So does Google Cloud's notice that it takes a
    virtual machine back, 30 seconds ahead. Of several processes, one that is asked takes the others along: JAX has been
    watching for SIGTERM since they joined, and Ctrl-C becomes one. They must all ask equally often.
    """
    together, requests, previous = several(), [], {}

    def request(number: int, _: Any) -> None:
        signal.signal(number, previous[number])
        if together:
            signal.raise_signal(signal.SIGTERM)
        else:
            requests.append(number)

    for number in (signal.SIGINT,) if together else (signal.SIGTERM, signal.SIGINT):
        previous[number] = signal.signal(number, request)

    def stop() -> bool:
        if together and not requests and _stop_agreed():
            requests.append(signal.SIGTERM)
        return bool(requests)

    _watch_for_preemption()
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@functools.cache
def _watch_for_preemption() -> None:
    """Starts, once, a thread that makes a SIGTERM of Google Cloud's notice; elsewhere does nothing."""
    product = pathlib.Path("/sys/class/dmi/id/product_name")
    if "GCE_METADATA_IP" not in os.environ and not (product.is_file() and "Google" in product.read_text()):
        return

    def watch() -> None:
        while _metadata("preempted?wait_for_change=true", timeout=None).strip() != "TRUE":
            time.sleep(1)
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _stop_agreed() -> bool:
    """Whether all processes are to stop now because one of them got SIGTERM, the notice before being taken away.

    All must ask equally often, once per call of the training loop: JAX chooses a number of questions that none of them
    has reached yet, and says yes to every process at that one.
    """
    return multihost_utils.reached_preemption_sync_point(next(_calls))
