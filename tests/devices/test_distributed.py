"""Two processes with one simulated device each must train like one process with two. They run the real program."""

import contextlib
import csv
import http.server
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.devices import processes, replicas
from jaxunet.evaluation import evaluate
from jaxunet.runs import config_file, settings
from jaxunet.runs.metric_log import read_metrics
from jaxunet.training import loop
from tests.support.runs import assert_same_end

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 60


@pytest.fixture(scope="module")
def small(make_config) -> ConfigDict:
    """Images of 32 x 32 and one row of metrics per step: the moment of an interruption then makes no difference."""
    config = make_config()
    config.dataset.image_size = 32
    config.train.total_steps = STEPS
    config.train.eval_every_epochs = 12.0
    config.train.log_every_steps = 1
    return config


@pytest.fixture(scope="module")
def reference(small, tmp_path_factory) -> pathlib.Path:
    """The uninterrupted run of one process with two devices."""
    workdir = tmp_path_factory.mktemp("reference")
    loop.train(small, workdir)
    return workdir


@contextlib.contextmanager
def two_processes(out: pathlib.Path, *flags: str) -> Iterator[list[subprocess.Popen]]:
    """Runs `launch.py` twice, with output to `out`/{stdout,stderr}{0,1}. Kills both at the end."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "XDG_CACHE_HOME": str(out.parent / "cache"),
    }
    processes = []
    with contextlib.ExitStack() as files:
        try:
            for i in range(2):
                stdout, stderr = (files.enter_context((out / f"{name}{i}").open("w")) for name in ("stdout", "stderr"))
                command = [sys.executable, "launch.py", *flags]
                command += [f"--coordinator_address={address}", "--num_processes=2", f"--process_id={i}"]
                processes.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=stdout, stderr=stderr))
            yield processes
        finally:
            for process in processes:
                process.kill()
                process.wait()


def overrides(config: ConfigDict) -> list[str]:
    return [f"--config.{key}={value}" for key, value in settings.flatten(config).items()]


def wait_for_step(workdir: pathlib.Path, step: int, processes: list[subprocess.Popen], out: pathlib.Path) -> None:
    deadline = time.time() + 300
    while not [r for r in read_metrics(workdir) if r["step"] >= step]:
        assert all(p.poll() is None for p in processes), (out / "stderr0").read_text() + (out / "stderr1").read_text()
        assert time.time() < deadline
        time.sleep(0.05)


def said(out: pathlib.Path, name: str) -> str:
    """The output without the lines of Gloo."""
    return "".join(s for s in (out / name).read_text().splitlines(keepends=True) if not s.startswith("[Gloo]"))


def test_preempted_run_goes_on_in_one_process_and_ends_like_an_uninterrupted_one(small, reference, tmp_path):
    """After SIGTERM to one of two, both save and leave. Then one process with two devices continues."""
    workdir = tmp_path / "run"
    with two_processes(tmp_path, f"--workdir={workdir}", *overrides(small)) as processes:
        wait_for_step(workdir, 5, processes, tmp_path)
        processes[1].send_signal(signal.SIGTERM)
        assert [p.wait(120) for p in processes] == [0, 0], said(tmp_path, "stderr0") + said(tmp_path, "stderr1")
    stopped = max(int(p.name) for p in (workdir / "checkpoints").iterdir())
    assert 5 < stopped < STEPS
    assert f"Stopped and saved at step {stopped} of {STEPS}" in said(tmp_path, "stdout0")
    assert said(tmp_path, "stdout1") == ""
    assert len(list((workdir / "tensorboard").iterdir())) == 1

    assert loop.train(small, workdir)
    assert_same_end(reference, workdir, rtol=1e-4, atol=1e-5)


def counts_of(folder: pathlib.Path) -> dict[str, tuple[int, ...]]:
    """id -> tp, fp, fn, tn in per_image.csv."""
    with (folder / "per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {row["id"]: tuple(int(row[name]) for name in ("tp", "fp", "fn", "tn")) for row in rows}
    assert len(found) == len(rows)
    return found


def test_two_processes_evaluate_like_one(small, reference, tmp_path):
    """Six images in batches of four, two per process: every image is scored once. Counts differ at most in pixels at
    the threshold, because programs for other numbers of devices may round differently."""
    scores = evaluate.evaluate(config_file.load(reference), reference, split="val", checkpoint="latest")
    folder = reference / "eval" / "val"
    files = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
    assert len(files) == 7
    expected = counts_of(folder)
    assert len(expected) == 6
    for path in files:
        (folder / path).unlink()
    with two_processes(tmp_path, "--mode=evaluate", f"--workdir={reference}", "--split=val") as processes:
        assert [p.wait(120) for p in processes] == [0, 0], said(tmp_path, "stderr0") + said(tmp_path, "stderr1")
    assert {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()} == files
    found = counts_of(folder)
    assert found.keys() == expected.keys()
    assert sum(tp + fp for tp, fp, _, _ in expected.values()) > 100  # pixels predicted
    now = json.loads((folder / "metrics.json").read_text())
    for protocol in ("P1", "P3"):
        assert now[protocol]["dice"]["mean"] == pytest.approx(scores[protocol]["dice"]["mean"], abs=0.01)
    for name, (tp, fp, fn, tn) in found.items():
        assert (tp + fn, fp + tn) == (expected[name][0] + expected[name][2], expected[name][1] + expected[name][3])
        assert abs(tp - expected[name][0]) + abs(fp - expected[name][1]) <= 3, name
    assert "P3: mean over images of all classes (n = 6)" in said(tmp_path, "stdout0")
    assert said(tmp_path, "stdout1") == ""


def test_killed_process_ends_the_other(small, reference, tmp_path):
    """Until then, both trained on streamed data as one process does on resident data."""
    workdir = tmp_path / "run"
    flags = [*overrides(small), "--config.input.mode=stream"]
    with two_processes(tmp_path, f"--workdir={workdir}", *flags) as processes:
        wait_for_step(workdir, 5, processes, tmp_path)
        processes[1].kill()
        assert processes[0].wait(60) != 0
    assert "error (process 0 of 2): Another process of this run has died" in said(tmp_path, "stderr0")
    assert "Traceback" not in said(tmp_path, "stderr0")
    expected = {r["step"]: r for r in read_metrics(reference) if "train/loss" in r}
    rows = [r for r in read_metrics(workdir) if "train/loss" in r]
    assert len(rows) >= 5
    for row in rows:
        for name in ("train/loss", "train/grad_norm", "train/dice"):
            assert row[name] == pytest.approx(expected[row["step"]][name], rel=1e-4), (row["step"], name)


SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 1),
        (SLURM, 4),
        (SLURM | {"SLURM_NTASKS": "1"}, 1),
        ({k: v for k, v in SLURM.items() if "STEP" not in k}, 1),  # in an sbatch script, outside srun
        ({"OMPI_COMM_WORLD_SIZE": "2"}, 2),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, 1),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0"}, 2),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "3"}, 6),
    ],
)
def test_processes_are_counted_by_the_environment(monkeypatch, environment, expected):
    for name in [n for n in os.environ if n.startswith(("SLURM", "OMPI", "TPU_WORKER", "MEGASCALE"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes.detected_processes() == expected


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"worker-network-endpoints": "unknown:unknown:10.0.0.2"}, 1),
        ({"worker-network-endpoints": "u:1:10.0.0.2,u:2:10.0.0.3", "tpu-env": "TYPE: 'v5e'\n"}, 2),
        ({"worker-network-endpoints": "a,b", "tpu-env": "TYPE: 'v5e'\nMEGASCALE_NUM_SLICES: '2'\n"}, 4),
        ({}, 1),
    ],
)
def test_tpu_vms_are_counted_by_their_metadata(monkeypatch, metadata, expected):
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    with metadata_server(monkeypatch, {f"attributes/{key}": value for key, value in metadata.items()}):
        assert processes.detected_processes() == expected


@contextlib.contextmanager
def metadata_server(monkeypatch: pytest.MonkeyPatch, metadata: dict[str, str]) -> Iterator[None]:
    """A stand-in for Google Cloud's metadata server that knows `metadata`."""

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            key = self.path.removeprefix("/computeMetadata/v1/instance/")
            known = key in metadata and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(metadata.get(key, "no").encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


@pytest.mark.parametrize("notice", ["TRUE", "FALSE"])
def test_notice_that_a_machine_is_taken_back_asks_to_stop(monkeypatch, notice):
    processes._watch_for_preemption.cache_clear()
    with (
        metadata_server(monkeypatch, {"preempted?wait_for_change=true": notice}),
        processes.stop_request() as stop,
    ):
        deadline = time.time() + (5 if notice == "TRUE" else 0.3)
        while time.time() < deadline and not stop():
            time.sleep(0.01)
        assert stop() == (notice == "TRUE")
    processes._watch_for_preemption.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("h:1", 2, None), "go together: give all three"),
        (("h:1", None, None), "go together: give all three"),
        (("h:1", 2, 2), "--process_id=2 does not fit --num_processes=2"),
        (("h", 2, 1), "--coordinator_address='h' is not HOST:PORT"),
    ],
)
def test_wrong_flags_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        processes.join(*arguments, preemption=True)


def test_one_process_joins_nobody(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    processes.join(None, 1, None, preemption=True)
    assert not jax.distributed.is_initialized()
    assert processes.is_first()
    assert processes.process_suffix() == ""


def test_workdirs_that_are_not_one_folder_are_refused(monkeypatch, tmp_path):
    """This is process 1. Process 0 writes its file into another folder."""
    monkeypatch.setattr(processes, "several", lambda: True)
    monkeypatch.setattr(processes, "is_first", lambda: False)
    monkeypatch.setattr(processes, "gather", lambda x: np.stack([np.ones_like(x), x]))
    monkeypatch.setattr(processes.multihost_utils, "sync_global_devices", lambda name: None)
    with pytest.raises(UserError, match="is not the same folder for processes 0 and 1"):
        processes.check_shared(tmp_path)
    (tmp_path / ".shared-1").touch()
    processes.check_shared(tmp_path)


def test_processes_that_differ_are_found(monkeypatch):
    monkeypatch.setattr(processes, "gather", lambda x: np.stack([x, x + 1]))
    with pytest.raises(UserError, match="The settings of process 1 differ from those of process 0"):
        processes.check_same("The settings", "a")
    with pytest.raises(RuntimeError, match="Replicas disagree on .*'w'"):
        replicas.assert_replicas_agree(replicas.replicate({"w": np.ones(3, np.float32)}))


SHARED_CACHE = """
import sys
import jax
from jaxunet import commands
from jaxunet.devices import processes, replicas
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("/cache_hits") else None)
processes.join(sys.argv[1], 2, int(sys.argv[2]), preemption=False)
commands._cache_programs()
hits.clear()
program = replicas.map_replicas(lambda s, r: (s + 1, r * 0), in_axes=(None, 0), devices=replicas.replica_devices())
program.lower(replicas.replicate(jax.numpy.ones(3)), replicas.replica_indices()).compile()
print("hits", len(hits))
"""


def test_second_start_finds_programs_in_a_shared_folder(tmp_path):
    """Process 0 fills the folder. JAX's key of a CPU program names the process: here only process 0 can read it."""
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "shared"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    found = []
    for _ in range(2):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{s.getsockname()[1]}"
        command = [sys.executable, "-c", SHARED_CACHE, address]
        started = [
            subprocess.Popen([*command, str(i)], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) for i in range(2)
        ]
        found.append([p.communicate(timeout=200)[0].splitlines()[-1] for p in started])
    assert found[0] == ["hits 0", "hits 0"]
    assert found[1][0] != "hits 0"
    assert any("jit_one" in path.name for path in (tmp_path / "shared").iterdir())
