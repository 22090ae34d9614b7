"""Train, evaluate or verify: `python launch.py --config=configs/demo.py --workdir=runs/demo`."""

import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    str(pathlib.Path(__file__).parent / "configs" / "default.py"),
    "Settings; any key can be overridden with --config.section.key=value.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: config, metrics, checkpoints, evaluations.")
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate", "verify"],
    "train: train, or go on with the run in --workdir. evaluate: score a checkpoint of --workdir. "
    "verify: check the dataset at config.dataset.source.",
)
_SPLIT = flags.DEFINE_enum("split", "val", ["train", "val", "test"], "evaluate: images to score.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "evaluate: latest, best (by validation Dice), or a step.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: flags start with --")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    from jaxunet import run  # late, so that --help answers at once

    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    sys.exit(
        run.run(
            _MODE.value,
            config=_CONFIG.value,
            overrides=overrides,
            workdir=_WORKDIR.value,
            split=_SPLIT.value,
            checkpoint=_CHECKPOINT.value,
        )
    )


if __name__ == "__main__":
    app.run(main)
