"""One call per `--mode`."""

import os
import pathlib
from typing import TYPE_CHECKING, Any

import jax
from ml_collections import ConfigDict

from jaxunet import config as config_lib
from jaxunet import distributed
from jaxunet.errors import UserError, exit_status
from jaxunet.locations import locate

if TYPE_CHECKING:
    from jaxunet.predictor import Predictor

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
    input: str | None = None,
    output: str | None = None,
    probabilities: bool = False,
    host: str = "127.0.0.1",
    port: int = 8080,
    format: str = "stablehlo",
    processes: tuple[str | None, int | None, int | None] = (None, None, None),
) -> int:
    """Runs `mode` and returns the exit status: 0, 1, or of `predict` 2 if some files failed.

    Args:
      mode: "train", "evaluate", "predict", "serve", "compare", "export", "preflight", "verify" or
        "import_torch".
      config: the resolved config of the command line.
      overrides: the keys given as `--config.key=value`, for modes that take the config of the run in `workdir`.
      workdir, split, checkpoint, source, input, output, probabilities, host, port, format, runs, topology,
        batch_per_chip: as the flags of `launch.py`.
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
        if runs and mode not in ("evaluate", "compare"):
            raise UserError("--runs is for --mode=evaluate and --mode=compare alone.")
        _cache_programs()
        if mode == "predict":
            from jaxunet.predict import predict

            if not input:
                raise UserError("--input is missing: name a file, a folder, a zip, or a pattern in quotes.")
            out = _path(output, "--output is missing: name a folder for masks and tables.")
            return predict(network(), input, out, probabilities=probabilities, share=_share(processes))
        if mode == "serve":
            from jaxunet.serve import serve

            serve(network(), host=host, port=port)
            return 0
        if mode == "evaluate" and not workdir and not runs:
            from jaxunet.evaluate import evaluate_predictor

            out = _path(output, "--workdir is missing. To score the network that comes with jaxunet, name --output.")
            if (out / "config.json").exists():
                raise UserError(
                    f"{out} holds a run of its own: name another --output for the network that comes along."
                )
            evaluate_predictor(network(), out, split=split)
            return 0
        if mode == "evaluate" and output:
            raise UserError("--output is for the network that comes along: what a run scores is written to --workdir.")
        folder = _folder(workdir)
        if mode == "train":
            from jaxunet.train import train

            train(config, folder)
        elif mode == "compare":
            from jaxunet.compare import compare

            compare(config, _folders(runs), overrides, folder, split=split, checkpoint=checkpoint)
        elif mode == "import_torch":
            from jaxunet.import_torch import import_torch

            path = _path(source, "--source is missing: name the .pth or .safetensors file to import.")
            import_torch(path, config, folder)
        elif mode == "export":
            from jaxunet.export import export

            out = _path(output, "--output is missing: name the file to write, such as --output=unet.onnx.")
            export(loaded(folder), folder, checkpoint=checkpoint, format=format, output=out)
        else:
            from jaxunet.evaluate import evaluate

            if runs and (folder / "config.json").exists():
                raise UserError(
                    f"{folder} holds a run of its own: name another --workdir for what --runs give together."
                )
            members = [(loaded(run), run) for run in _folders(runs)]
            first = members[0][0] if members else loaded(folder)
            evaluate(first, folder, split=split, checkpoint=checkpoint, members=members)
        return 0

    def network() -> "Predictor":
        """Of the run in --workdir, or without one, the network that comes with jaxunet."""
        from jaxunet import predictor

        if workdir:
            run_config = loaded(folder := _folder(workdir))
            predictor.fit_batch_size(run_config)
            return predictor.load(run_config, folder, checkpoint=checkpoint)
        if checkpoint != "latest":
            raise UserError(f"--checkpoint={checkpoint} is of a run: name it with --workdir.")
        return predictor.load_shipped(overrides)

    def loaded(folder: pathlib.Path) -> ConfigDict:
        run_config = config_lib.load(folder)
        run_config.update_from_flattened_dict(overrides)
        return run_config

    def join() -> None:
        if mode in _TOGETHER:
            distributed.join(*processes, preemption=mode == "train" or (mode == "compare" and "systems" in config))
        elif mode != "predict" and processes[1] not in (None, 1):
            raise UserError(f"--mode={mode} runs in one process: leave out --num_processes and what goes with it.")

    if status := exit_status(join):
        return status
    with distributed.only_first_prints():
        return exit_status(action, process=distributed.name())


def _share(processes: tuple[str | None, int | None, int | None]) -> tuple[int, int]:
    """(number of this process, number of all) that share the files to predict; they need not know of each other."""
    coordinator, number, process = processes
    if processes == (None, 1, None):
        return 0, 1
    if coordinator or (number is None) != (process is None) or not 0 <= (process or 0) < (number or 1):
        raise UserError("--mode=predict takes --num_processes=N and --process_id=I, from 0 to N - 1, and nothing else.")
    return process or 0, number or 1


def _cache_programs() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX was told of another: a second start is quick."""
    if jax.config.jax_compilation_cache_dir is None:
        folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxunet"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _path(name: str | None, missing: str) -> pathlib.Path:
    if not name:
        raise UserError(missing)
    if "://" in name:
        raise UserError(f"{name} must be a local path: copy it to or from the bucket.")
    return pathlib.Path(name).expanduser()


def _folder(workdir: str | None) -> pathlib.Path:
    if not workdir:
        raise UserError("--workdir is missing: name a folder for the run, such as --workdir=runs/unet.")
    return locate(workdir)


def _folders(runs: list[str]) -> list[pathlib.Path]:
    return [locate(run) for run in runs]
