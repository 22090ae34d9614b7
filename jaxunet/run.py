"""One call per `--mode`: resolves the config, runs, and turns a user's mistake into one sentence."""

import errno
import pathlib
import sys
from typing import Any

from ml_collections import ConfigDict

from jaxunet import config as config_lib
from jaxunet.errors import UserError


def run(
    mode: str, *, config: ConfigDict, overrides: dict[str, Any], workdir: str | None, split: str, checkpoint: str
) -> int:
    """Runs `mode` and returns the exit status, 0 or 1.

    Args:
      mode: "train", "evaluate" or "verify".
      config: the resolved config of the command line.
      overrides: the keys given as `--config.key=value`; `evaluate` applies them to the config of the run.
      workdir, split, checkpoint: as the flags of `launch.py`.
    """
    try:
        if mode == "verify":
            from jaxunet.dataset import verify

            return verify.run(config.dataset, _folder(workdir) if workdir else None)
        if mode == "train":
            from jaxunet.train import train

            train(config, _folder(workdir))
        else:
            from jaxunet.evaluate import evaluate

            folder = _folder(workdir)
            run_config = config_lib.load(folder)
            run_config.update_from_flattened_dict(overrides)
            evaluate(run_config, folder, split=split, checkpoint=checkpoint)
    except UserError as error:
        return _complain(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EPERM, errno.EDQUOT, errno.ENOTDIR):
            raise
        where = f" ({error.filename})" if error.filename else ""
        return _complain(f"{error.strerror}{where}: free space or choose another --workdir or config.dataset.data_dir.")
    return 0


def _folder(workdir: str | None) -> pathlib.Path:
    if not workdir:
        raise UserError("--workdir is missing: name a folder for the run, such as --workdir=runs/unet.")
    return pathlib.Path(workdir).expanduser()


def _complain(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return 1
