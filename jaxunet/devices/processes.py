"""Several processes that train together, such as the hosts of a TPU pod slice: joining, agreeing, stopping.

With one process, these functions do nothing and wait for nobody. `replicas.py` handles the devices.
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
import types
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxunet.core.errors import UserError

HEARTBEAT_SECONDS = 40  # a process silent for this long counts as dead, and the others end; JAX's default is 100
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")  # all set by srun
_PATIENCE_SECONDS = 20
_calls = itertools.count(1)


def join(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None, *, preemption: bool
) -> None:
    """Joins the other processes, if the arguments or the environment name any. Call it before any other use of JAX.

    Process 0 listens on "host:port". If all three are None, SLURM, Open MPI, GKE or the TPU VM is asked;
    `num_processes` 1 ignores the environment and runs this process alone. With `preemption` JAX watches for SIGTERM, as
    `stop_request` needs: SIGTERM then no longer ends the process. Raises UserError if the arguments contradict each
    other, or the processes do not find each other.
    """
    if num_processes == 1:
        return
    if any(x is not None for x in (coordinator_address, num_processes, process_id)):
        if coordinator_address is None or num_processes is None or process_id is None:
            raise UserError("--coordinator_address, --num_processes and --process_id go together: give all three.")
        if num_processes < 1 or not 0 <= process_id < num_processes:
            given = f"--process_id={process_id} does not fit --num_processes={num_processes}"
            raise UserError(f"{given}: count processes from 0.")
        if not re.fullmatch(r".+:\d+", coordinator_address):
            raise UserError(f"--coordinator_address={coordinator_address!r} is not HOST:PORT, such as 10.0.0.2:8476.")
        expected, detection = num_processes, "deactivate"
    else:
        expected, detection = detected_processes(), None
        if expected == 1:
            return
    jax.config.update("jax_enable_preemption_service", preemption)
    words = f"Waiting for all {expected} processes to start. --num_processes=1 runs one process alone."
    # JAX gives up after 5 minutes, and ends the process at once.
    waiting = threading.Timer(_PATIENCE_SECONDS, print, [words], {"file": sys.stderr, "flush": True})
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            cluster_detection_method=detection,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
        found = jax.process_count()
        multihost_utils.sync_global_devices("joined")  # CPUs must connect within 30 s of the first exchange
    except Exception as error:  # JAX and its network layer raise many types
        if "Failed to start RPC server" in str(error):
            raise UserError(
                f"--coordinator_address={coordinator_address}: process 0 cannot listen there, as another program uses "
                f"that port: choose another."
            ) from error
        raise UserError(
            f"The {expected} processes did not find each other ({' '.join(str(error).split())[:200]}): give each "
            f"--coordinator_address, --num_processes and --process_id, or run one alone with --num_processes=1."
        ) from error
    finally:
        waiting.cancel()
    if found != expected:
        raise UserError(f"{expected} processes were started, but JAX sees {found}: check which devices JAX uses.")
    devices = gather(np.array([jax.local_device_count()]))[:, 0].tolist()
    if len(set(devices)) > 1:
        raise UserError(f"The processes have {devices} devices: give each the same number.")


def detected_processes() -> int:
    """The number of processes that the environment starts together; 1 if it names none.

    This reads the variables that `jax.distributed.initialize` reads, which fails if it finds none. `import jax` sets
    TPU_SKIP_MDS_QUERY on machines without TPU chips.
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
    """A value from Google Cloud's metadata server for this virtual machine; "" if there is none."""
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
    """Whether this process prints, and writes all files but checkpoints."""
    return not several() or jax.process_index() == 0


def process_suffix() -> str:
    """ " (process 1 of 4)", counted from 0; "" if there is only one process."""
    return f" (process {jax.process_index()} of {jax.process_count()})" if several() else ""


@contextlib.contextmanager
def only_first_prints() -> Iterator[None]:
    """Discards what the other processes print to stdout. Errors go to stderr, from every process."""
    if is_first():
        yield
        return
    with pathlib.Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


@contextlib.contextmanager
def first_then_others() -> Iterator[None]:
    """The first process runs the block while the others wait. Then the others run it, all at once."""
    if not is_first():
        multihost_utils.sync_global_devices("the first process is done")
    yield
    if several() and is_first():
        multihost_utils.sync_global_devices("the first process is done")


def gather(x: np.ndarray) -> np.ndarray:
    """[...] of each process -> [processes, ...], the same on all. Numbers have at most 32 bits."""
    return np.asarray(multihost_utils.process_allgather(x)) if several() else x[None]


def check_same(what: str, text: str) -> None:
    """Raises UserError on all processes if `text` differs between them. `what` names it, as a plural noun."""
    others = gather(np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32))
    if different := [i for i, other in enumerate(others) if not np.array_equal(other, others[0])]:
        raise UserError(f"{what} of process {different[0]} differ from those of process 0: give all the same.")


def check_shared(folder: pathlib.Path) -> None:
    """Raises UserError on all processes unless they share `folder`, into which each writes its part of a checkpoint."""
    if not several():
        return
    probe = folder / f".shared-{gather(np.array([random.getrandbits(32)], np.uint32))[0, 0]}"
    if is_first():
        probe.touch()
    multihost_utils.sync_global_devices("probe written")
    seen = gather(np.array([probe.exists()]))[:, 0]
    if is_first():
        probe.unlink()
    if not seen.all():
        raise UserError(
            f"{folder} is not the same folder for processes 0 and {np.flatnonzero(~seen)[0]}: choose a folder on a "
            f"file system that all hosts share."
        )


@contextlib.contextmanager
def stop_request() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether to save and leave.

    SIGTERM and Ctrl-C request it; a second one ends the process as usual. Google Cloud's notice that it takes a virtual
    machine back in 30 seconds requests it too. A request to one of several processes stops all: JAX watches for SIGTERM
    since `join`, and Ctrl-C is turned into SIGTERM. All processes must call the function equally often.
    """
    together = several()
    numbers = (signal.SIGINT,) if together else (signal.SIGTERM, signal.SIGINT)
    requests: list[int] = []
    previous = {number: signal.getsignal(number) for number in numbers}

    def request(number: int, _: types.FrameType | None) -> None:
        signal.signal(number, previous[signal.Signals(number)])
        if together:
            signal.raise_signal(signal.SIGTERM)
        else:
            requests.append(number)

    for number in numbers:
        signal.signal(number, request)

    def stop() -> bool:
        # JAX chooses a number of calls that no process has reached yet, and answers True to all at that call.
        if together and not requests and multihost_utils.reached_preemption_sync_point(next(_calls)):
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
    """On Google Cloud, starts one thread that turns the notice of preemption into SIGTERM."""
    product = pathlib.Path("/sys/class/dmi/id/product_name")
    if "GCE_METADATA_IP" not in os.environ and not (product.is_file() and "Google" in product.read_text()):
        return

    def watch() -> None:
        while _metadata("preempted?wait_for_change=true", timeout=None).strip() != "TRUE":
            time.sleep(1)
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
