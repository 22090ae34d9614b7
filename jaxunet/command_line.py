"""The command line of `launch.py` and `jaxunet`: it reads the flags and calls `commands.execute`."""

import dataclasses
import os
import pathlib
import re
import sys
import textwrap
from collections.abc import Callable
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

import jaxunet
from jaxunet.commands import MODES, Flags, execute
from jaxunet.core.terminal import keep_working
from jaxunet.data.dataset_spec import SPLITS
from jaxunet.data.originals import ALL
from jaxunet.export.formats import FORMATS
from jaxunet.runs.config_file import CONFIGS, shipped_names
from jaxunet.runs.settings import RENAMED, with_new_names

_HELP = {"-h", "-help", "--help", "--helpshort"}


def jaxunet_command() -> NoReturn:
    """The console script `jaxunet MODE --flag=value ...`: the first word is the mode."""
    keep_working()
    mode, *rest = sys.argv[1:] or ["--help"]
    if mode in MODES:
        leave(main(["jaxunet", *rest], mode=mode))
    if mode not in (*_HELP, "help", "--version"):
        leave(complain(f"the first word must be a mode, not {mode!r}: {', '.join(MODES)}."))
    print(f"jaxunet {jaxunet.__version__}" if mode == "--version" else _modes_help())
    leave(0)


def leave(status: int) -> NoReturn:
    """Ends the process."""
    sys.stdout.flush()
    if status:  # at once, so that threads writing to a full disk cannot print their tracebacks
        os._exit(status)
    sys.exit()


def main(argv: list[str], *, mode: str = "") -> int:
    """Reads the flags in `argv`, runs the mode, returns the exit status. `mode`: "" if the flag `--mode` names it."""
    try:  # ml_collections reads the config file and the overrides while the flags are defined and parsed
        app.define_help_flags()
        argv = with_new_names(argv)
        _define_flags(argv)
        if _HELP & set(argv):
            print(_flags_help(mode))
            return 0
        rest = flags.FLAGS(argv)
        config, overrides = flags.FLAGS.config, config_flags.get_override_values(flags.FLAGS["config"])
        config.keys()  # a file that could not be read says so only now
    except (AttributeError, KeyError) as error:
        inner: Any = error
        while isinstance(inner.args[0], Exception):  # ml_collections nests exceptions
            inner = inner.args[0]
        for old, new in RENAMED.items():  # in the user's config file; `argv` already has the new names
            if f'Key "{old.rpartition(".")[2]}" does not exist' in str(inner):
                return complain(f"config.{old} is now called config.{new}: rename it in the config file.")
        return complain("There is no setting " + " ".join(str(inner.args[0]).replace("\n", ". ").split()))
    except (flags.Error, TypeError, ValueError, ImportError, OSError, SyntaxError) as error:
        return complain(" ".join(str(error).split()))
    if mode and flags.FLAGS["mode"].present:
        return complain(f"--mode={flags.FLAGS.mode} comes after the mode {mode}: leave it out.")
    mode, words = mode or flags.FLAGS.mode, rest[1:]
    if words and not (mode == "data" and words[0] == "inspect" and len(words) == 2):
        return complain(f"unexpected argument {words[0]!r}: flags start with --. Only `data inspect FOLDER` has words.")
    for flag in _FLAGS:
        if flags.FLAGS[flag.name].present and mode not in flag.modes:
            return complain(f"--{flag.name} is not read by {mode}: leave it out.")
    if mode in _TRAINED and flags.FLAGS["config"].present:
        return complain(f"--config is not read by {mode}, as the network has its settings: {_CHANGES}.")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.FATAL)  # Orbax and TFDS also raise what they log as errors

    given: dict[str, Any] = {flag.name: flags.FLAGS[flag.name].value for flag in _FLAGS}
    return execute(mode, Flags(config, overrides, inspect=words[-1] if words else None, **given))


def complain(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return 1


# ---- flags -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Flag:
    """An absl flag. `modes`: the modes that read it."""

    name: str
    modes: tuple[str, ...]
    help: str
    define: Callable[..., Any] = flags.DEFINE_string
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


_TRAINED = ("evaluate", "predict", "serve", "export")  # modes that take the settings of a trained network
_NETWORK = (*_TRAINED, "compare")  # modes that read trained networks
_RUN = tuple(mode for mode in MODES if mode != "data")
_WRITING = ("predict", "evaluate", "export", "data")
_SEVERAL = ("train", "evaluate", "predict", "compare")  # modes that several processes can share
_CHOICE, _LIST, _INTEGER = flags.DEFINE_enum, flags.DEFINE_list, flags.DEFINE_integer
_SPLITS, _FORMATS = {"enum_values": [*SPLITS, ALL]}, {"enum_values": list(FORMATS)}
_FLAGS = (
    _Flag("workdir", _RUN, "folder of the run; evaluate, predict, serve and export also take a .safetensors file"),
    _Flag("runs", _NETWORK, "workdirs of runs: compare scores each, other modes average their predictions", _LIST),
    _Flag("checkpoint", _NETWORK, "latest, best (by validation Dice), or a step"),
    _Flag("split", ("evaluate", "compare"), "images to score; val if not given (docs/evaluation.md)", _CHOICE, _SPLITS),
    _Flag("input", ("predict",), "a file, folder, zip, pattern in quotes, or DICOMweb address (docs/pacs.md)"),
    _Flag("output", _WRITING, "folder, or DICOMweb address; export, data inspect: the file"),
    _Flag("probabilities", ("predict",), "also write probabilities, as 8-bit pictures", flags.DEFINE_bool),
    _Flag("host", ("serve",), "name or address to listen at (docs/serve.md)"),
    _Flag("port", ("serve",), "port; 0 for any free one", _INTEGER, {"lower_bound": 0, "upper_bound": 65535}),
    _Flag("format", ("export",), "what to write (docs/export.md)", _CHOICE, _FORMATS),
    _Flag("onnxruntime_web", ("export",), "of --format=html: the folder of the npm package onnxruntime-web"),
    _Flag("topology", ("preflight",), "accelerators, such as v5e:2x2,h100:8, or local", _LIST),
    _Flag("batch_per_chip", ("preflight",), "images; 0 divides train.batch_size", _INTEGER, {"lower_bound": 0}),
    _Flag("source", ("import_torch",), "state dict, .pth or .safetensors"),
    _Flag("coordinator_address", _SEVERAL, "of several processes: HOST:PORT of process 0 (docs/multihost.md)"),
    _Flag("num_processes", _SEVERAL, "of several processes: their number; 1 ignores SLURM and the like", _INTEGER),
    _Flag("process_id", _SEVERAL, "of several processes: the number of this one, from 0", _INTEGER),
)
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Flags)}
_CHANGES = "--config.section.key=value changes a setting"


def _define_flags(argv: list[str]) -> None:
    config_flags.DEFINE_config_file("config", str(CONFIGS / "default.py"), _config_help(), sys_argv=argv)
    flags.FLAGS["config"].parser = _ConfigParser("config")
    flags.DEFINE_enum("mode", "train", list(MODES), "what to do")
    for flag in _FLAGS:
        flag.define(flag.name, default=_DEFAULTS[flag.name], help=flag.help, **flag.options)


class _ConfigParser(ConfigFileFlagParser):
    """Parses `--config`: a file, or the name of a shipped config. Both can end in `:argument`."""

    def parse(self, path: str) -> ConfigDict:
        name, *argument = path.split(":", 1)
        if not pathlib.Path(name).is_file():
            stem = re.sub(r"^configs/|\.py$", "", name)  # `unet`, and outside a clone `configs/unet.py`
            if stem in shipped_names():
                path = ":".join([str(CONFIGS / f"{stem}.py"), *argument])
            elif stem == name:
                raise ValueError(f"neither a file nor a shipped config ({', '.join(shipped_names())})")
        try:
            return super().parse(path)
        except (TypeError, ValueError) as error:  # the text is a traceback
            raise type(error)(str(error).strip().splitlines()[-1]) from error


# ---- help ------------------------------------------------------------------------------------------------------------


def _modes_help(command: str = "jaxunet MODE") -> str:
    modes = [f"  {name:<14}{mode.help}" for name, mode in MODES.items()]
    return "\n".join([f"{command} --flag=value ...", "", *modes, "", "`jaxunet MODE --help`: the flags of that mode."])


def _flags_help(mode: str) -> str:
    """The help of a mode and its flags; of all modes and flags for ""."""
    first = f"jaxunet {mode}: {MODES[mode].help}" if mode else _modes_help("python launch.py --mode=MODE")
    lines = [first, "", "--config.section.key=value" if mode in _TRAINED else "--config"]
    lines += _indented(_config_help(mode))
    for flag in _FLAGS:
        if not mode or mode in flag.modes:
            choices = "|".join(flag.options.get("enum_values", ()))
            lines.append(f"--{flag.name}" + (f"={choices}" if choices else ""))
            default = f"; {value} if not given" if (value := _DEFAULTS[flag.name]) else ""
            whose = "" if mode else f"{', '.join(flag.modes)}: "
            lines += _indented(f"{whose}{flag.help}{default}")
    return "\n".join(lines)


def _config_help(mode: str = "") -> str:
    if mode in _TRAINED:
        return "changes a setting of the trained network; configs/default.py explains them. --config is not read"
    return (
        f"settings: a file, or the name of a shipped config ({', '.join(shipped_names())}). {_CHANGES}; "
        f"configs/default.py explains them. {', '.join(_TRAINED)} take the settings of the network instead of --config"
    )


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent="    ", subsequent_indent="    ")
