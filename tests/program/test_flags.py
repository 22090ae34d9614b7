"""Flags that a mode does not read are refused, not ignored."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments: str, end: str = "") -> subprocess.CompletedProcess:
    command = ["bash", "-c", f'set -o pipefail; "$0" "$@" {end}', sys.executable, *arguments]
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("-m jaxunet predict --split=val", "--split is not read by predict"),
        ("launch.py --mode=predict --split=val", "--split is not read by predict"),
        ("launch.py --mode=data --workdir=a", "--workdir is not read by data"),
        ("launch.py --runs=a,b", "--runs is not read by train"),
        ("launch.py --mode=export --num_processes=2", "--num_processes is not read by export"),
        ("-m jaxunet evaluate --config=unet", "--config is not read by evaluate"),
        ("launch.py --mode=predict --config=configs/unet.py", "--config is not read by predict"),
        ("-m jaxunet train --mode=predict", "--mode=predict comes after the mode train"),
    ],
)
def test_flag_of_another_mode_is_refused(command, words):
    done = run(*command.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {words}")
    assert done.stderr.count("\n") == 1


def test_help_says_which_modes_read_a_config():
    assert "--config is not read" in run("-m", "jaxunet", "predict", "--help").stdout
    assert "--config\n" in run("-m", "jaxunet", "train", "--help").stdout


@pytest.mark.parametrize("command", ["launch.py --help", "-m jaxunet --help"])
def test_help_into_a_closed_pipe_ends_quietly(command):
    done = run(*command.split(), end="| head -1")
    assert (done.returncode, done.stderr) == (0, "")
