"""Train, evaluate, predict, compare, export: `python launch.py --config=configs/demo.py --workdir=runs/demo`.

`--mode` says what to do; `--help` lists the modes and the flags. The installed command `jaxunet` does the same.
"""

import sys

from jaxunet.command_line import leave, main
from jaxunet.core.terminal import keep_working

if __name__ == "__main__":
    keep_working()
    leave(main(sys.argv))
