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

# The functions import JAX and the stages late, so that `--help` and mistakes in the flags are answered at once.


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags of the command line; `command_line.py` describes them."""

    config: ConfigDict  # the config file with all overrides
    # the keys given as `--config.key=value`. Modes that read the config of a run apply them to it.
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    inspect: str | None = None  # the folder of `data inspect FOLDER`
    workdir: str | None = None
    split: str | None = None
    checkpoint: str = "latest"
    source: str | None = None
    input: str | None = None
    output: str | None = None
    probabilities: bool = False
    host: str = "127.0.0.1"
    port: int = 8080
    format: str = "stablehlo"
    onnxruntime_web: str | None = None
    runs: tuple[str, ...] = ()
    topology: tuple[str, ...] = ()
    batch_per_chip: int = 0
    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def execute(mode: str, flags: Flags) -> int:
    """Runs a mode of `MODES`. Returns the exit status: 0; 1 after an error; 2 if `predict` failed for some files."""
    from jaxunet.devices import processes

    def join() -> None:
        if MODES[mode].together:
            systems = mode == "compare" and "systems" in flags.config
            several = flags.coordinator_address, flags.num_processes, flags.process_id
            processes.join(*several, preemption=mode == "train" or systems)

    def action() -> int | None:
        if MODES[mode].compiles:
            _cache_programs()
        return MODES[mode].function(flags)

    if status := run_or_explain(join):
        return status
    with processes.only_first_prints():
        return run_or_explain(action, process=processes.process_suffix())


def _train(flags: Flags) -> None:
    from jaxunet.training.loop import train

    train(flags.config, _workdir(flags))


def _evaluate(flags: Flags) -> None:
    from jaxunet import api

    if flags.runs and flags.output:
        raise UserError("--output is for a single network: the scores of --runs are written to --workdir.")
    if not flags.workdir and (flags.runs or not flags.output):
        raise UserError("--workdir is missing. To score the network that comes with jaxunet, name --output.")
    out = flags.workdir if flags.runs else flags.output
    api.evaluate(_source(flags), split=flags.split, output=out, checkpoint=flags.checkpoint, overrides=flags.overrides)


def _predict(flags: Flags) -> int:
    from jaxunet.prediction import pacs
    from jaxunet.prediction.folder import predict
    from jaxunet.xrays.dicomweb import is_address

    if not flags.input:
        raise UserError("--input is missing: name a file, a folder, a zip, or a pattern in quotes.")
    if is_address(flags.output or ""):
        return pacs.predict(_network(flags), flags.input, flags.output or "", share=_share(flags))
    out = _path(flags.output, "--output is missing: name a folder for masks and tables.")
    return predict(_network(flags), flags.input, out, probabilities=flags.probabilities, share=_share(flags))


def _serve(flags: Flags) -> None:
    from jaxunet.prediction.serve import serve

    serve(_network(flags), host=flags.host, port=flags.port)


def _compare(flags: Flags) -> None:
    from jaxunet.evaluation.compare import compare

    folder = _workdir(flags)
    runs = [locate(run) for run in flags.runs]
    compare(flags.config, runs, flags.overrides, folder, split=flags.split or "val", checkpoint=flags.checkpoint)


def _export(flags: Flags) -> None:
    from jaxunet.export.export import export

    out = _path(flags.output, "--output is missing: name the file to write, such as --output=unet.onnx.")
    scores = locate(flags.workdir) if flags.runs and flags.workdir else None
    runtime = local_path(flags.onnxruntime_web) if flags.onnxruntime_web else None
    export(_members(flags), format=flags.format, output=out, scores=scores, runtime=runtime)


def _preflight(flags: Flags) -> None:
    from jaxunet.data import draft
    from jaxunet.preflight.preflight import preflight

    out = _workdir(flags) if flags.workdir else None
    preflight(draft.settle(flags.config), list(flags.topology), out, batch_per_chip=flags.batch_per_chip)


def _verify(flags: Flags) -> int:
    from jaxunet.data.prepared import archive_of
    from jaxunet.data.verify import write_findings

    return write_findings(archive_of(flags.config.dataset), _workdir(flags) if flags.workdir else None)


def _data(flags: Flags) -> int | None:
    from jaxunet.data import draft, findings, prepared, specs
    from jaxunet.runs import checks

    if flags.inspect:
        return findings.inspect(local_path(flags.inspect), local_path(flags.output) if flags.output else None)
    if flags.output:
        raise UserError("--output is for `data inspect FOLDER`: leave it out.")
    config = draft.settle(flags.config)
    checks.check(config, training=False)
    dataset = config.dataset
    if dataset.name == specs.LABELLED_IMAGES:
        raise UserError(f"config.dataset.name={dataset.name!r} reads the pictures as they are: nothing to prepare.")
    for part in sorted({dataset.train_config, dataset.eval_config}):
        print(f"Ready: {prepared.open_builder(dataset, part).data_dir}")
    return None


def _import_torch(flags: Flags) -> None:
    from jaxunet.training.import_torch import import_torch

    path = _path(flags.source, "--source is missing: name the .pth or .safetensors file to import.")
    import_torch(path, flags.config, _workdir(flags))


@dataclasses.dataclass(frozen=True)
class Mode:
    """A row of `MODES`."""

    function: Callable[[Flags], int | None]  # runs the mode; it returns the exit status, None for 0
    help: str  # one line for `--help`
    together: bool = False  # whether several processes can work together on one run
    compiles: bool = True  # whether it compiles networks; their programs are cached for the next start


MODES = {
    "train": Mode(_train, "train, or continue the run in --workdir", together=True),
    "evaluate": Mode(_evaluate, "score --workdir, or without one the shipped network, on --split", together=True),
    "predict": Mode(_predict, "write masks and a table for the X-rays at --input into --output"),
    "serve": Mode(_serve, "start a web page at --port that predicts X-rays"),
    "compare": Mode(_compare, "train configs/compare.py, or take --runs; score them side by side", together=True),
    "export": Mode(_export, "write --workdir, or without one the shipped network, to --output in the format --format"),
    "preflight": Mode(_preflight, "predict memory, traffic and times on --topology, without having it", compiles=False),
    "verify": Mode(_verify, "check every file of the dataset at config.dataset.source", compiles=False),
    "data": Mode(_data, "prepare the datasets of --config; `data inspect FOLDER`: check your own", compiles=False),
    "import_torch": Mode(_import_torch, "make a --workdir from the PyTorch weights in --source"),
}


def _source(flags: Flags) -> tuple[str, ...] | str | None:
    """The networks of --runs, or of --workdir; None for the one that comes with jaxunet."""
    return flags.runs or flags.workdir or None


def _members(flags: Flags) -> "list[Predictor]":
    from jaxunet import api

    return api.load_members(_source(flags), checkpoint=flags.checkpoint, overrides=flags.overrides)


def _network(flags: Flags) -> "Predictor":
    """The network of `_source`, or the mean of several."""
    from jaxunet import api

    if flags.workdir and flags.runs:
        raise UserError("--workdir and --runs both name networks: leave out one of the two.")
    return api.load(_source(flags), checkpoint=flags.checkpoint, overrides=flags.overrides)


def _share(flags: Flags) -> tuple[int, int]:
    """(index of this process, number of processes) that share the files to predict. They need no connection."""
    number, process = flags.num_processes, flags.process_id
    if (flags.coordinator_address, number, process) == (None, 1, None):
        return 0, 1
    incomplete = (number is None) != (process is None)
    if flags.coordinator_address or incomplete or not 0 <= (process or 0) < (number or 1):
        raise UserError("--mode=predict takes --num_processes=N with --process_id=I, 0 to N - 1, and no coordinator.")
    return process or 0, number or 1


def _cache_programs() -> None:
    """Caches compiled programs for a quick second start: in the user's cache folder, unless JAX has another one."""
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
        if folder.startswith("~"):  # there is no home folder
            return
        jax.config.update("jax_compilation_cache_dir", os.path.join(folder, "jaxunet"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _path(name: str | None, missing: str) -> pathlib.Path:
    if not name:
        raise UserError(missing)
    if "://" in name:
        raise UserError(f"{name} must be a local path: copy the files to or from the bucket.")
    return local_path(name)


def _workdir(flags: Flags) -> pathlib.Path:
    if not flags.workdir:
        raise UserError("--workdir is missing: name a folder for the run, such as --workdir=runs/unet.")
    return locate(flags.workdir)
