"""Kills short trainings on real X-rays with kill -9 at random moments. Each must end like an uninterrupted one.

python benchmarks/kill_and_resume.py --source=covidqu.zip --data_dir=DIR --kills=50

A run is killed up to five times and then finishes. Its last checkpoint and its log (without the speed) must equal those
of an uninterrupted run bit for bit. Otherwise the exit status is 1.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = pathlib.Path(__file__).parents[1]
STEPS, KILLS_PER_RUN = 120, 5
OVERRIDES = {
    "dataset.image_size": 64,
    "model.channels": "(8, 16, 32)",
    "train.total_epochs": 0,
    "train.total_steps": STEPS,
    "train.eval_every_epochs": 0.1,
    "dataset.targets": "('infection','lung')",
    "train.checkpoint_every_steps": 4,
    "train.log_every_steps": 3,
}


def start(args: argparse.Namespace, workdir: pathlib.Path) -> subprocess.Popen:
    overrides = OVERRIDES | {"dataset.source": args.source, "dataset.data_dir": args.data_dir}
    command = [sys.executable, "launch.py", "--config=configs/default.py", f"--workdir={workdir}"]
    command += [f"--config.{key}={value}" for key, value in overrides.items() if value is not None]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(f"a training failed: {errors[-2000:]}")


def end(workdir: pathlib.Path) -> tuple[dict[str, bytes], list[dict]]:
    """Every array of the last checkpoint, and the log without the speed."""
    path = (workdir / "checkpoints" / str(STEPS) / "state").absolute()
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(path)
    arrays = {jax.tree_util.keystr(p): np.asarray(x).tobytes() for p, x in jax.tree_util.tree_leaves_with_path(tree)}
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return arrays, [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--source")
    parser.add_argument("--data_dir")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, begun = random.Random(args.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for reference in (folder / "warm", folder / "reference"):  # the first run fills the cache of compiled programs
            began = time.monotonic()
            process = start(args, reference)
            while not ((log := reference / "metrics.jsonl").is_file() and log.stat().st_size):
                if process.poll() is not None:
                    finish(process)
                time.sleep(0.02)
            first_row = time.monotonic() - began
            finish(process)
            whole = time.monotonic() - began
        expected = end(folder / "reference")
        kills = runs = wrong = 0
        while kills < args.kills:
            workdir = folder / f"run{runs}"
            for _ in range(min(KILLS_PER_RUN, args.kills - kills)):
                process = start(args, workdir)
                time.sleep(rng.uniform(0.8 * first_row, first_row + (whole - first_row) / 3))
                finished = process.poll() is not None
                process.kill()
                process.communicate()
                if finished:
                    break
                kills += 1
            finish(start(args, workdir))
            wrong += end(workdir) != expected
            runs += 1
            seconds = time.monotonic() - begun
            print(f"{seconds:.0f} s: {kills} kills, {runs} runs finished, {wrong} ended differently", flush=True)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
