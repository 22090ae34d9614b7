"""One call per `--mode`."""

import os
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxunet import config as config_lib
from jaxunet import distributed
from jaxunet.errors import UserError, exit_status
from jaxunet.locations import locate

_TOGETHER = ("train", "evaluate", "compare")  # the modes in which several processes share the work


def run(
    mode: str,
    *,
    config: ConfigDict,
    overrides: dict[str, Any],
    workdir: str | None,
    split: str,
    checkpoint: str,
    source: str | None,
    runs: list[str],
    topology: list[str],
    batch_per_chip: int,
    processes: tuple[str | None, int | None, int | None] = (None, None, None),
) -> int:
    """Runs `mode` and returns the exit status, 0 or 1.

    Args:
      mode: "train", "evaluate", "compare", "preflight", "verify" or "import_torch".
      config: the resolved config of the command line.
      overrides: the keys given as `--config.key=value`; `evaluate` applies them to the config of the run.
      workdir, split, checkpoint, source, runs, topology, batch_per_chip: as the flags of `launch.py`.
      processes: its flags `coordinator_address`, `num_processes` and `process_id`.
    """

    def action() -> int | None:
        # Imported here, so that a mistake in the flags is told before JAX has started.
        if mode == "verify":
            from jaxunet import dataset

            return dataset.verify_source(config.dataset, _folder(workdir) if workdir else None)
        if mode == "preflight":
            from jaxunet.preflight import preflight

            out = _folder(workdir) if workdir else None
            preflight(config, topology, out, batch_per_chip=batch_per_chip)
            return 0
        _cache_programs()
        folder = _folder(workdir)
        if mode == "train":
            from jaxunet.train import train

            train(config, folder)
        elif mode == "compare":
            from jaxunet.compare import compare

            folders = [locate(run) for run in runs]
            compare(config, folders, overrides, folder, split=split, checkpoint=checkpoint)
        elif mode == "import_torch":
            from jaxunet.import_torch import import_torch

            if not source:
                raise UserError("--source is missing: name the .pth or .safetensors file to import.")
            import_torch(pathlib.Path(source).expanduser(), config, folder)
        else:
            from jaxunet.evaluate import evaluate

            run_config = config_lib.load(folder)
            run_config.update_from_flattened_dict(overrides)
            evaluate(run_config, folder, split=split, checkpoint=checkpoint)
        return 0

    def join() -> None:
        if mode in _TOGETHER:
            distributed.join(*processes, preemption=mode != "evaluate")
        elif processes[1] not in (None, 1):
            raise UserError(f"--mode={mode} runs in one process: leave out --num_processes and what goes with it.")

    if status := exit_status(join):
        return status
    with distributed.only_first_prints():
        return exit_status(action, process=distributed.name())


def _cache_programs() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX was told of another: a second start is quick."""
    if jax.config.jax_compilation_cache_dir is None:
        folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxunet"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _folder(workdir: str | None) -> pathlib.Path:
    if not workdir:
        raise UserError("--workdir is missing: name a folder for the run, such as --workdir=runs/unet.")
    return locate(workdir)
