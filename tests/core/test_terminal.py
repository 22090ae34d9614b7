"""Without stdout, stderr, a home folder or UTF-8, work goes on or one sentence says why not."""

import os
import pathlib
import subprocess
import sys

import pytest

from jaxunet.core.errors import UserError
from jaxunet.core.files import local_path

_ROOT = pathlib.Path(__file__).parents[2]
_WORK = """
import pathlib, sys
from jaxunet.core.terminal import keep_working
keep_working()
for _ in range(20000): print("M\\u00fcller", flush=True)
print("x", file=sys.stderr)
with open(sys.argv[1], "w") as file: file.write("done")
"""


@pytest.mark.parametrize(
    "end", ["| head -1", ">&-", "2>&-", ">&- 2>&- <&-", "> /dev/full", "2> /dev/full", "> /dev/null"]
)
def test_work_goes_on(end, tmp_path):
    done = tmp_path / "done"
    command = f'set -o pipefail; "{sys.executable}" -c "$WORK" "{done}" {end}'
    env = os.environ | {"WORK": _WORK, "PYTHONIOENCODING": "ascii"}
    found = subprocess.run(["bash", "-c", command], cwd=_ROOT, env=env, capture_output=True, text=True, check=False)
    assert (found.returncode, done.read_text()) == (0, "done")
    assert "Error" not in found.stderr


def test_home_folder_that_does_not_exist_is_one_sentence():
    with pytest.raises(UserError, match="~nosuchuser/x begins with a home folder that does not exist"):
        local_path("~nosuchuser/x")


def test_command_line_says_so_in_a_terminal_of_ascii():
    env = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "launch.py", "--mode=predict", "--workdir=~nosuchuser/ü", "--input=ü", "--output=o"]
    found = subprocess.run(command, cwd=_ROOT, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr.startswith("error: ~nosuchuser/")
    assert len(found.stderr.splitlines()) == 1
