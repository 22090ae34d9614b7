"""Train, evaluate, predict, compare, export: `python launch.py --config=configs/demo.py --workdir=runs/demo`."""

import dataclasses
import os
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from jaxunet.commands import MODES, Flags, execute
from jaxunet.export.formats import FORMATS
from jaxunet.runs.settings import RENAMED, with_new_names


def define_flags(arguments: list[str]) -> None:
    default = pathlib.Path(__file__).parent / "configs" / "default.py"
    config_flags.DEFINE_config_file(
        "config",
        str(default),
        "Settings; any key can be overridden with --config.section.key=value.",
        sys_argv=arguments,
    )
    flags.DEFINE_string("workdir", None, "Folder of the run: config, metrics, checkpoints, evaluations.")
    flags.DEFINE_enum("mode", "train", list(MODES), "; ".join(f"{k}: {v.help}" for k, v in MODES.items()) + ".")
    flags.DEFINE_enum("split", "val", ["train", "val", "test"], "evaluate, compare: images to score.")
    flags.DEFINE_string("source", None, "import_torch: state dict, .pth or .safetensors.")
    flags.DEFINE_string(
        "checkpoint",
        "latest",
        "evaluate, predict, serve, compare, export: latest, best (by validation Dice), or a step.",
    )
    flags.DEFINE_string("input", None, "predict: a file, a folder, a zip, or a pattern in quotes (docs/predict.md).")
    flags.DEFINE_string("output", None, "predict, evaluate without --workdir: folder to write to; export: the file.")
    flags.DEFINE_bool("probabilities", False, "predict: also write probabilities, as 8-bit pictures.")
    flags.DEFINE_string("host", "127.0.0.1", "serve: name or address to listen at (docs/serve.md).")
    flags.DEFINE_integer("port", 8080, "serve: where to listen; 0 for any that is free.", 0, 65535)
    flags.DEFINE_enum("format", "stablehlo", list(FORMATS), "export: what to write (docs/export.md).")
    flags.DEFINE_list("topology", [], "preflight: slices, such as v5e:2x2,v6e:16x16, or local.")
    flags.DEFINE_integer("batch_per_chip", 0, "preflight: images per step and chip; 0 divides train.batch_size.", 0)
    flags.DEFINE_string("coordinator_address", None, "Several processes: HOST:PORT of process 0 (docs/multihost.md).")
    flags.DEFINE_integer("num_processes", None, "Several processes: how many; 1 ignores SLURM and the like.")
    flags.DEFINE_integer("process_id", None, "Several processes: which one this is, from 0.")
    flags.DEFINE_list("runs", [], "compare, evaluate: workdirs of finished runs; evaluate scores their mean.")


def main(argv: list[str]) -> int:
    try:  # ml_collections reads the config file and the overrides while the flags are defined and parsed
        app.define_help_flags()
        argv = with_new_names(argv)
        define_flags(argv)
        rest = flags.FLAGS(argv)
        config, overrides = flags.FLAGS.config, config_flags.get_override_values(flags.FLAGS["config"])
        config.keys()  # a file that could not be read says so only now
    except (AttributeError, KeyError) as error:
        while isinstance(error.args[0], Exception):  # ml_collections wraps one in the other
            error = error.args[0]
        for old, new in RENAMED.items():  # in a config file of the user's; flags have their new names
            if f'Key "{old.rpartition(".")[2]}" does not exist' in str(error):
                return complain(f"config.{old} is now called config.{new}: rename it in the config file.")
        return complain("There is no setting " + " ".join(str(error.args[0]).replace("\n", ". ").split()))
    except (flags.Error, TypeError, ValueError, ImportError, OSError, SyntaxError) as error:
        return complain(" ".join(str(error).split()))
    if len(rest) > 1:
        return complain(f"unexpected argument {rest[1]!r}: flags start with --.")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.FATAL)  # what Orbax and TFDS log as errors, they also raise

    given = {
        field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(Flags) if field.name in flags.FLAGS
    }
    return execute(flags.FLAGS.mode, Flags(**given | {"config": config, "overrides": overrides}))


def complain(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    status = main(sys.argv)
    sys.stdout.flush()
    if status:  # at once: threads that were still writing to a full disk would add their tracebacks to the sentence
        os._exit(status)
