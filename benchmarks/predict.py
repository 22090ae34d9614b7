"""Speed of `--mode=predict`: seconds from the command to the first finished image, images per second, peak memory.

python benchmarks/predict.py --images=1000                      # the included network
python benchmarks/predict.py --images=1000 --workdir=runs/unet

Draws synthetic X-rays of 256 x 256 pixels as PNG files and predicts them in a new process. An untimed run before fills
the cache of compiled programs. Prints wall time and CPU time; other work on the machine changes the CPU time less.
"""

import argparse
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from jaxunet.data.drawing import draw_chest_xray  # noqa: E402


def measure(workdir: str, source: pathlib.Path, output: pathlib.Path) -> dict[str, float]:
    """Times one prediction: seconds to the first row and to the end, CPU seconds, and peak memory in GB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    command = [sys.executable, "launch.py", "--mode=predict", f"--workdir={workdir}", f"--input={source}"]
    with subprocess.Popen(
        [*command, f"--output={output}"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        first, log = None, output / "predictions.jsonl"
        while process.poll() is None:
            if first is None and log.is_file() and log.read_bytes().count(b"\n") > 1:
                first = time.perf_counter() - start
            time.sleep(0.02)
        seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed: run it to see why.")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"first": first or seconds, "seconds": seconds, "cpu": cpu, "gb": after.ru_maxrss / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", default="")
    parser.add_argument("--images", type=int, default=1000)
    args = parser.parse_args()
    workdir = os.path.abspath(args.workdir) if args.workdir else ""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for count, source in ((args.images, folder / "many"), (1, folder / "one")):
            source.mkdir()
            for i in range(count):
                label = ("COVID-19", "Normal")[i % 2]
                Image.fromarray(draw_chest_xray(0, i, "test", label)[0]).save(source / f"{i}.png")
        for size in ("one", "many"):  # fills the cache of compiled programs
            measure(workdir, folder / size, folder / f"warm_{size}")
        one = measure(workdir, folder / "one", folder / "out_one")
        many = measure(workdir, folder / "many", folder / "out_many")
    n = args.images
    print(f"1 image: finished {one['first']:.1f} s after the command; {one['cpu']:.1f} s of CPU time")
    print(
        f"{n} images: {many['seconds']:.1f} s, {n / many['seconds']:.1f} images/s with start-up, "
        f"{(n - 1) / (many['seconds'] - many['first']):.1f} after the first; {many['cpu']:.1f} s of CPU time "
        f"({1000 * (many['cpu'] - one['cpu']) / n:.1f} ms per image); at most {many['gb']:.2f} GB"
    )


if __name__ == "__main__":
    main()
