"""Prediction, evaluation and the Python API need nothing that Windows or macOS lacks."""

import json
import pathlib
import subprocess
import sys

import numpy as np

from tests.support.xrays import encoded, picture

_WITHOUT = """
import os, signal, sys, warnings
warnings.filterwarnings("ignore", "only soft file lock")  # of filelock, which has another lock on Windows
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
del os.sched_getaffinity, os.getuid, os.fork, os.mkfifo, signal.SIGALRM, signal.alarm
"""
_USE = """
import jaxunet
from jaxunet.command_line import main
workdir, xray, out = sys.argv[1:]
assert main(["jaxunet", f"--workdir={workdir}", f"--input={xray}", f"--output={out}/predicted"], mode="predict") == 0
jaxunet.evaluate(workdir, split="val", output=f"{out}/scores")
print(jaxunet.load(workdir).predict(xray).row)
"""


def run(program: str, *arguments: object) -> None:
    command = [sys.executable, "-c", _WITHOUT + program, *map(str, arguments)]
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr


def test_predict_evaluate_and_the_api(finished, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(np.kron(picture(), np.ones((4, 4), np.uint8))))
    run(_USE, finished, tmp_path / "a.png", tmp_path)
    (row,) = json.loads((tmp_path / "predicted/predictions.json").read_text())["images"]
    assert (row["height"], row["error"]) == (256, None)
    assert (tmp_path / "scores/eval/val/metrics.json").exists()


def test_the_processes_that_decode():
    run("import runpy; runpy.run_path('jaxunet/xrays/codecs.py', run_name='__main__')")
