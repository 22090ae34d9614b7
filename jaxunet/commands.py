"""One function per mode, in the table `MODES`. `command_line.py` hands its flags to `execute`."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from jaxunet.core.errors import UserError, run_or_explain
from jaxunet.core.files import local_path, locate

if TYPE_CHECKING:
    from jaxunet.prediction.predictor import Predictor

# JAX and the stages are imported inside the functions: `--help` and a mistake in the flags are answered at once.


@dataclasses.dataclass(frozen=True)
class Flags:
    """What the command line says; see `command_line.py` for the meaning of each flag.

    Attributes:
      config: the resolved config of the command line.
      overrides: the keys given as `--config.key=value`, for modes that take the config of the run in `workdir`.
    """

    config: ConfigDict
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    workdir: str | None = None
    split: str = "val"
    checkpoint: str = "latest"
    source: str | None = None
    input: str | None = None
    output: str | None = None
    probabilities: bool = False
    host: str = "127.0.0.1"
    port: int = 8080
    format: str = "stablehlo"
    runs: tuple[str, ...] = ()
    topology: tuple[str, ...] = ()
    batch_per_chip: int = 0
    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def execute(mode: str, flags: Flags) -> int:
    """Runs `mode` and returns the exit status: 0, 1, or of `predict` 2 if some files failed.

    Args:
      mode: a key of `MODES`.
      flags: of the command line.
    """
    from jaxunet.devices import processes

    def join() -> None:
        if MODES[mode].together:
            systems = mode == "compare" and "systems" in flags.config
            several = flags.coordinator_address, flags.num_processes, flags.process_id
            processes.join(*several, preemption=mode == "train" or systems)
        elif mode != "predict" and flags.num_processes not in (None, 1):
            raise UserError(f"--mode={mode} runs in one process: leave out --num_processes and what goes with it.")

    def action() -> int | None:
        if flags.runs and mode not in ("evaluate", "predict", "serve", "compare", "export"):
            raise UserError(f"--mode={mode} has no use for --runs: leave it out.")
        if MODES[mode].compiles:
            _cache_programs()
        return MODES[mode].function(flags)

    if status := run_or_explain(join):
        return status
    with processes.only_first_prints():
        return run_or_explain(action, process=processes.process_suffix())


# ---- modes -----------------------------------------------------------------------------------------------------------


def _train(flags: Flags) -> None:
    from jaxunet.training.loop import train

    train(flags.config, _workdir(flags))


def _evaluate(flags: Flags) -> None:
    from jaxunet.evaluation.evaluate import evaluate, evaluate_predictor

    if not flags.workdir and not flags.runs:
        out = _path(flags.output, "--workdir is missing. To score the network that comes with jaxunet, name --output.")
        if (out / "config.json").exists():
            raise UserError(f"{out} holds a run of its own: name another --output for the network that comes along.")
        evaluate_predictor(_network(flags), out, split=flags.split)
        return
    if flags.output:
        raise UserError("--output is for the network that comes along: what a run scores is written to --workdir.")
    folder = _workdir(flags)
    if flags.runs and (folder / "config.json").exists():
        raise UserError(f"{folder} holds a run of its own: name another --workdir for what --runs give together.")
    members = [(_run_config(run, flags), run) for run in map(locate, flags.runs)]
    config = members[0][0] if members else _run_config(folder, flags)
    evaluate(config, folder, split=flags.split, checkpoint=flags.checkpoint, members=members)


def _predict(flags: Flags) -> int:
    from jaxunet.prediction.folder import predict

    if not flags.input:
        raise UserError("--input is missing: name a file, a folder, a zip, or a pattern in quotes.")
    out = _path(flags.output, "--output is missing: name a folder for masks and tables.")
    return predict(_network(flags), flags.input, out, probabilities=flags.probabilities, share=_share(flags))


def _serve(flags: Flags) -> None:
    from jaxunet.prediction.serve import serve

    serve(_network(flags), host=flags.host, port=flags.port)


def _compare(flags: Flags) -> None:
    from jaxunet.evaluation.compare import compare

    folder = _workdir(flags)
    runs = [locate(run) for run in flags.runs]
    compare(flags.config, runs, flags.overrides, folder, split=flags.split, checkpoint=flags.checkpoint)


def _export(flags: Flags) -> None:
    from jaxunet.export.export import export

    folder = _workdir(flags)
    out = _path(flags.output, "--output is missing: name the file to write, such as --output=unet.onnx.")
    members = [(_run_config(run, flags), run) for run in map(locate, flags.runs)]
    config = members[0][0] if members else _run_config(folder, flags)
    export(config, folder, checkpoint=flags.checkpoint, format=flags.format, output=out, members=members)


def _preflight(flags: Flags) -> None:
    from jaxunet.preflight.preflight import preflight

    out = _workdir(flags) if flags.workdir else None
    preflight(flags.config, flags.topology, out, batch_per_chip=flags.batch_per_chip)


def _verify(flags: Flags) -> int:
    from jaxunet.data.prepared import archive_of
    from jaxunet.data.verify import write_findings

    return write_findings(archive_of(flags.config.dataset), _workdir(flags) if flags.workdir else None)


def _data(flags: Flags) -> None:
    from jaxunet.data import prepared, specs
    from jaxunet.runs import checks

    checks.check(flags.config, training=False)
    dataset = flags.config.dataset
    if dataset.name == specs.LABELLED_IMAGES:
        raise UserError(f"config.dataset.name={dataset.name!r} reads the pictures as they are: nothing to prepare.")
    for part in sorted({dataset.train_config, dataset.eval_config}):
        print(f"Ready: {prepared.open_builder(dataset, part).data_dir}")


def _import_torch(flags: Flags) -> None:
    from jaxunet.training.import_torch import import_torch

    folder = _workdir(flags)
    path = _path(flags.source, "--source is missing: name the .pth or .safetensors file to import.")
    import_torch(path, flags.config, folder)


@dataclasses.dataclass(frozen=True)
class Mode:
    """A row of `MODES`.

    Attributes:
      function: does it; the status it returns is that of the process, None being 0.
      help: one line for `--help`.
      together: whether several processes share the work as one.
      compiles: whether it runs networks, whose compiled programs are kept for the next start.
    """

    function: Callable[[Flags], int | None]
    help: str
    together: bool = False
    compiles: bool = True


MODES = {
    "train": Mode(_train, "train, or continue the run in --workdir", together=True),
    "evaluate": Mode(
        _evaluate, "score a checkpoint of --workdir, or without one the shipped network, on --split", together=True
    ),
    "predict": Mode(_predict, "write masks and a table for the X-rays at --input into --output"),
    "serve": Mode(_serve, "open a page for the browser at --port that takes an X-ray and shows the prediction"),
    "compare": Mode(
        _compare,
        "train the systems of configs/compare.py, or take --runs, and score them side by side on --split",
        together=True,
    ),
    "export": Mode(_export, "write a checkpoint of --workdir as --format to --output, with a model card beside it"),
    "preflight": Mode(
        _preflight, "compile the config for --topology, without having it: memory, traffic, times", compiles=False
    ),
    "verify": Mode(_verify, "check every file of the dataset at config.dataset.source", compiles=False),
    "data": Mode(
        _data, "prepare the datasets that training and evaluation with --config read, and stop", compiles=False
    ),
    "import_torch": Mode(_import_torch, "make a --workdir of the PyTorch weights in --source"),
}


# ---- flags -----------------------------------------------------------------------------------------------------------


def _network(flags: Flags) -> "Predictor":
    """Of the run in --workdir, or the mean of those in --runs; without both, the network that comes with jaxunet."""
    from jaxunet import api

    if flags.workdir and flags.runs:
        raise UserError("--workdir and --runs both name networks: leave out one of them.")
    if flags.checkpoint != "latest" and not (flags.workdir or flags.runs):
        raise UserError(f"--checkpoint={flags.checkpoint} is of a run: name it with --workdir.")
    return api.load(flags.runs or flags.workdir or None, checkpoint=flags.checkpoint, overrides=flags.overrides)


def _run_config(folder: pathlib.Path, flags: Flags) -> ConfigDict:
    """The config that the run in `folder` was trained with, and the keys given on the command line."""
    from jaxunet.runs import config_file

    config = config_file.load(folder)
    config_file.override(config, flags.overrides)
    return config


def _share(flags: Flags) -> tuple[int, int]:
    """(number of this process, number of all) that share the files to predict; they need not know of each other."""
    number, process = flags.num_processes, flags.process_id
    if (flags.coordinator_address, number, process) == (None, 1, None):
        return 0, 1
    incomplete = (number is None) != (process is None)
    if flags.coordinator_address or incomplete or not 0 <= (process or 0) < (number or 1):
        raise UserError("--mode=predict takes --num_processes=N and --process_id=I, from 0 to N - 1, and nothing else.")
    return process or 0, number or 1


def _cache_programs() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX was told of another: a second start is quick."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        folder = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
        if folder.startswith("~"):  # there is no home folder
            return
        jax.config.update("jax_compilation_cache_dir", os.path.join(folder, "jaxunet"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _path(name: str | None, missing: str) -> pathlib.Path:
    if not name:
        raise UserError(missing)
    if "://" in name:
        raise UserError(f"{name} must be a local path: copy it to or from the bucket.")
    return local_path(name)


def _workdir(flags: Flags) -> pathlib.Path:
    if not flags.workdir:
        raise UserError("--workdir is missing: name a folder for the run, such as --workdir=runs/unet.")
    return locate(flags.workdir)
