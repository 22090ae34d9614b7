"""What training really reads on 1, 2, 4 and 8 of 8 devices, as JSON; test_order.py runs it with 8 simulated ones.

Each image of the data is one value, its number, and so is its mask. The step that is compiled does not train: it
writes down the numbers that it finds in its batch. Everything around it is the program's own.
"""

import dataclasses
import functools
import json

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from configs import default
from jaxunet.devices import replicas
from jaxunet.training import programs
from jaxunet.training.optimizer import durations

N, BATCH, EPOCHS = 37, 8, 5


class Numbered:
    """A `Source` of N images: all pixels of image i are i, the rows of its mask the bits of i."""

    def __init__(self) -> None:
        self.ids = [str(i) for i in range(N)]
        self.labels, self.classes, self.positive_class = np.zeros(N, np.int32), (), None
        self.image_shape = (8, 8, 1)

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        return {"image": np.full((8, 8), i, np.uint8), "mask": np.full((8, 1, 1), i, np.uint8)}


@flax.struct.dataclass
class Seen:
    """In place of the training state: `images` and `masks` int32 [steps, BATCH], -1 where no step has been."""

    step: jax.Array
    images: jax.Array
    masks: jax.Array


def write_down(state: Seen, batch: dict[str, jax.Array]) -> tuple[Seen, dict[str, jax.Array]]:
    """What each replica was given, in the order of the replicas."""
    image = jnp.rint(batch["image"][:, 3, 5, 0] * 255).astype(jnp.int32)
    mask = batch["target"]["masks"][:, 3, :, 0].astype(jnp.int32) @ (2 ** jnp.arange(7, -1, -1))
    image, mask = (jax.lax.all_gather(x, replicas.AXIS, tiled=True) for x in (image, mask))
    state = Seen(state.step + 1, state.images.at[state.step].set(image), state.masks.at[state.step].set(mask))
    return state, dict.fromkeys(("loss", "grad_norm", "score_sum", "score_count"), jnp.zeros(()))


class NoProgress:
    def previous_is_done(self) -> bool:
        return True

    def record(self, totals: dict, *, was_idle: bool) -> None:
        pass


def audit(mode: str, start: int, steps_per_call: int) -> dict[str, list]:
    config = default.get_config()
    config.input.mode = mode
    config.train.batch_size, config.train.total_epochs, config.train.steps_per_call = BATCH, EPOCHS, steps_per_call
    for key, value in config.augment.items():
        config.augment[key] = type(value)(0)
    source = Numbered()
    length = durations(config.train, len(source))
    advance, most = programs.build_advance(config, source, write_down, start, length)
    nothing = np.full((length.total_steps, BATCH), -1, np.int32)
    state, step = replicas.replicate(Seen(np.int32(start), nothing, nothing)), start
    while step < length.total_steps:
        n = min(most, length.total_steps - step)
        state, step = advance(state, n, NoProgress()), step + n
    return {f.name: np.asarray(getattr(state, f.name)).tolist() for f in dataclasses.fields(state)}


def main() -> None:
    everything, found = jax.devices(), {}
    for count in (1, 2, 4, 8):
        jax.devices = functools.partial(lambda devices: devices, everything[:count])
        jax.local_device_count = functools.partial(lambda n: n, count)
        for name, arguments in {
            "resident": ("resident", 0, 7),
            "resident, continued, one step per call": ("resident", 9, 1),
            "stream": ("stream", 0, 0),
            "stream, continued": ("stream", 9, 0),
        }.items():
            found[f"{name} on {count}"] = audit(*arguments)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
