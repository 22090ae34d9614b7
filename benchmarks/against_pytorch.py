"""Times training step and inference against PyTorch: same CPU cores, same weights, interleaved pairs.

pip install -c constraints.txt '.[test,crosscheck]'
python benchmarks/against_pytorch.py --model=resnet_unet --batch=4 --size=256 --pairs=5

Both use float32, AdamW and BCE with logits; PyTorch uses channels_last. The logits are compared first. Then the pairs
are timed, and the median of PyTorch's time over ours is printed: above 1, jaxunet is faster.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch_networks

from configs import default
from jaxunet.models import torch_weights
from jaxunet.models.build import build_model, predict_step
from jaxunet.scoring.counts import batch_dice
from jaxunet.scoring.losses import build_loss
from jaxunet.training.state import create_train_state
from jaxunet.training.step import train_step


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["resnet_unet", "separable_unet"], default="resnet_unet")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()

    settings = default.get_config().model
    settings.name, settings.dtype = args.model, "float32"
    model, tx = build_model(settings, ("infection",), axis_name=None), optax.adamw(1e-4)
    rng = np.random.default_rng(0)
    image = rng.random((args.batch, args.size, args.size, 1), np.float32)
    mask = (rng.random(image.shape) > 0.5).astype(np.float32)
    state = create_train_state(model, tx, seed=0, image_shape=image.shape[1:], ema=False)
    loss = default.get_config().loss
    loss.name = "bce"
    loss_fn = build_loss(loss, ("infection",))
    step = functools.partial(train_step, model=model, loss_fn=loss_fn, score_fn=batch_dice, tx=tx)
    start = time.perf_counter()
    run = jax.jit(step, donate_argnums=0).lower(state, {"image": image, "target": {"masks": mask}}).compile()
    compiled = time.perf_counter() - start
    predict = jax.jit(functools.partial(predict_step, model=model))

    theirs = {"resnet_unet": torch_networks.ResNetUNet, "separable_unet": torch_networks.SeparableUNet}[args.model]()
    tensors = torch_weights.to_torch({"params": state.params, "batch_stats": state.batch_stats}, args.model)
    missing, unexpected = theirs.load_state_dict({k: torch.tensor(v) for k, v in tensors.items()}, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    theirs = theirs.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-4)
    x = torch.tensor(image).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    y = torch.tensor(mask).permute(0, 3, 1, 2)

    def torch_step() -> None:
        theirs.train()
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.binary_cross_entropy_with_logits(theirs(x), y).backward()
        optimizer.step()

    def torch_predict() -> np.ndarray:
        theirs.eval()
        with torch.inference_mode():
            return theirs(x).permute(0, 2, 3, 1).numpy()

    variables = {"params": state.params, "batch_stats": state.batch_stats}
    ours, reference = np.asarray(predict(variables, image)["masks"]), torch_predict()
    print(
        f"logits agree to {np.abs(ours - reference).max() / np.abs(reference).max():.1e}; compiled in {compiled:.1f} s"
    )
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; jax {jax.__version__}")
    variables = jax.tree.map(jnp.copy, variables)

    holder = [state]

    def jax_step() -> None:
        holder[0], metrics = run(holder[0], {"image": image, "target": {"masks": mask}})
        jax.block_until_ready(metrics)

    def jax_predict() -> None:
        jax.block_until_ready(predict(variables, image))

    for name, pair in {"training step": (jax_step, torch_step), "inference": (jax_predict, torch_predict)}.items():
        for action in pair:
            action()
        times = [[timed(action) / args.batch for action in pair] for _ in range(args.pairs)]
        ratios = [b / a for a, b in times]
        mine, other = (statistics.median(t[i] for t in times) for i in (0, 1))
        print(
            f"{args.model} {name}, batch {args.batch}, {args.size}x{args.size}: jaxunet {mine:.3f} s per image, "
            f"PyTorch {other:.3f}; ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
