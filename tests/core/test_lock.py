"""A lock keeps other processes out and ends with its process, however that ends."""

import pathlib
import subprocess
import sys

import pytest

from jaxunet.core.errors import UserError
from jaxunet.core.files import lock

_HOLD = """
import pathlib, sys
from jaxunet.core.files import lock
with lock(pathlib.Path(sys.argv[1]), ""):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_leaves_no_lock(tmp_path: pathlib.Path):
    path, root = tmp_path / ".lock", pathlib.Path(__file__).parents[2]
    command = [sys.executable, "-c", _HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="^taken$"), lock(path, "taken"):
            pass
        process.kill()
        process.wait(20)
        with lock(path, "taken") as works:
            assert works
        assert not path.exists()
