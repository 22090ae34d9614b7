"""Seconds from the command to the end of the first training step, with an empty and a filled cache of programs.

python benchmarks/startup.py --config=configs/resnet101_unet.py --repeats=3

Trains on the built-in synthetic X-rays. Each training has a new process and a new workdir.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
OVERRIDES = {
    "dataset.name": "synthetic_cxr",
    "dataset.synthetic.train": 64,
    "dataset.synthetic.val": 4,
    "dataset.synthetic.test": 4,
    "train.total_epochs": 0,
    "train.total_steps": 3,
    "train.log_every_steps": 1,
    "train.batch_size": 4,
}


def seconds_to_first_step(config: str, folder: pathlib.Path, workdir: pathlib.Path) -> float:
    """Starts a training, and kills it when its first step is logged."""
    overrides = OVERRIDES | {"dataset.data_dir": folder / "data"}
    command = [sys.executable, "launch.py", f"--config={config}", f"--workdir={workdir}"]
    command += [f"--config.{key}={value}" for key, value in overrides.items()]
    start = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        log = workdir / "metrics.jsonl"
        while not (log.is_file() and log.stat().st_size):
            if process.poll():
                sys.exit(f"{' '.join(command)} failed: run it to see why.")
            time.sleep(0.02)
        seconds = time.perf_counter() - start
        process.kill()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="configs/default.py")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        first = seconds_to_first_step(args.config, folder, folder / "first")  # also draws the images
        again = [seconds_to_first_step(args.config, folder, folder / f"again{i}") for i in range(args.repeats)]
    print(
        f"{args.config}: first start {first:.1f} s, with drawing 72 synthetic X-rays and compiling; "
        f"later starts {statistics.median(again):.1f} s ({min(again):.1f} to {max(again):.1f})"
    )


if __name__ == "__main__":
    main()
