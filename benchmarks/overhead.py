"""Times the overhead of a training step beside the network: the loop around it and the input inside it.

python benchmarks/overhead.py --config=configs/default.py --batch=8 --rounds=7

Each round times in turn: the resident program as the training loop calls it, with its log; the same program alone; and
the training step on a ready batch, without gathering, decoding and augmentation.
"""

import argparse
import importlib.util
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from jaxunet.data import batches  # noqa: E402
from jaxunet.devices import replicas  # noqa: E402
from jaxunet.models.build import build_model  # noqa: E402
from jaxunet.runs.metric_log import MetricWriter  # noqa: E402
from jaxunet.scoring.counts import batch_dice  # noqa: E402
from jaxunet.scoring.losses import build_loss  # noqa: E402
from jaxunet.training import programs  # noqa: E402
from jaxunet.training.optimizer import Durations, build_optimizer, build_schedule  # noqa: E402
from jaxunet.training.progress import Progress  # noqa: E402
from jaxunet.training.state import create_train_state  # noqa: E402

EXAMPLES, STEPS = 256, 20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="configs/default.py")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    spec = importlib.util.spec_from_file_location("config", args.config)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.train.batch_size = args.batch

    rng = np.random.default_rng(0)
    raw = {
        "image": rng.integers(0, 256, (EXAMPLES, 256, 256), np.uint8),
        "mask": rng.integers(0, 256, (EXAMPLES, 256, 32, 1), np.uint8),
    }
    length = Durations(total_steps=10_000, steps_per_epoch=EXAMPLES / args.batch)
    schedule = build_schedule(config.optimizer, length)
    model = build_model(config.model, ("infection",), axis_name=replicas.AXIS if config.model.bn_sync else None)
    tx = build_optimizer(config.optimizer, schedule)
    step = programs.build_step(config, model, tx, build_loss(config.loss, ("infection",)), batch_dice)
    make_batch = programs.build_make_batch(config)
    ready = batches.decode(batches.gather(raw, jnp.arange(args.batch)))
    kwargs = {"seed": 0, "batch_size": args.batch, "num_examples": EXAMPLES, "max_steps": 1}
    full = programs.resident_program(step, make_batch, **kwargs)
    bare = programs.resident_program(step, lambda _raw, _positions: ready, **kwargs)
    arrays, one, numbers = replicas.replicate(raw), np.int32(1), replicas.replica_indices()
    state = replicas.replicate(create_train_state(model, tx, seed=0, image_shape=(256, 256, 1), ema=True))
    holder = [state]

    def call(program: Callable[..., Any]) -> dict[str, jax.Array]:
        holder[0], totals = program(holder[0], arrays, one, numbers)
        return totals

    with (
        tempfile.TemporaryDirectory() as folder,
        MetricWriter(pathlib.Path(folder), config, start_step=0, validated_step=0, total_steps=10_000) as writer,
    ):
        progress = Progress(
            writer,
            config,
            watched_metric="dice",
            schedule=schedule,
            length=length,
            ids_of_step=lambda _: [],
            state={},
            flops_per_image=None,
            peak_flops=None,
        )

        def looped() -> None:
            for _ in range(STEPS):
                progress.record(call(full), was_idle=False)
                writer.advance(1)
            progress.log(int(holder[0].step))

        def program_only() -> None:
            for _ in range(STEPS):
                jax.block_until_ready(call(full))

        def network_only() -> None:
            for _ in range(STEPS):
                jax.block_until_ready(call(bare))

        actions = (looped, program_only, network_only)
        jax.block_until_ready((call(full), call(bare)))
        times: list[list[float]] = []
        for _ in range(args.rounds):
            times.append([])
            for action in actions:
                start = time.perf_counter()
                action()
                times[-1].append((time.perf_counter() - start) / STEPS)
    loop, program, network = (statistics.median(t[i] for t in times) for i in range(3))
    loop_ratio = statistics.median(t[0] / t[1] for t in times)
    input_ratio = statistics.median(t[1] / t[2] for t in times)
    print(
        f"\n{args.config}, batch {args.batch}: {1e3 * loop:.0f} ms per step in the loop, {1e3 * program:.0f} ms as a "
        f"program, {1e3 * network:.0f} ms without input. Loop / program {loop_ratio:.3f}, program / network "
        f"{input_ratio:.3f}"
    )


if __name__ == "__main__":
    main()
