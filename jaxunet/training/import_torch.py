"""`--mode=import_torch`: turns a trained PyTorch network into a workdir for `--mode=evaluate`."""

import dataclasses
import pathlib
import re

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxunet.core.errors import UserError
from jaxunet.core.files import write_atomically
from jaxunet.models import torch_weights
from jaxunet.models.build import build_model
from jaxunet.models.resnet import STAGES
from jaxunet.runs import checks
from jaxunet.runs.checkpoint import Checkpoints
from jaxunet.runs.config_file import to_json
from jaxunet.training.optimizer import build_optimizer
from jaxunet.training.state import create_train_state

_TARGETS = {1: ("infection",), 2: ("infection", "lung")}  # by number of masks: a state dict names none


def import_torch(source: pathlib.Path, config: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes `config.json` and a checkpoint of step 0 with the weights of `source` into `workdir`, a new or empty
    folder.

    `source`: state dict of `segmentation_models_pytorch.Unet` with a ResNet encoder and one input channel, or the
    original study's `model_epoch_N.pth`. It sets the network and the number of masks in `config`. Raises UserError if
    it holds another network, or the folder already holds a run.
    """
    if (workdir / "config.json").exists():
        raise UserError(f"{workdir} already holds a run: choose another --workdir.")
    tensors = torch_weights.read_tensors(source)
    name, depth, masks = detect_network(tensors, source)
    with config.unlocked():
        config.model.name, config.dataset.targets, config.train.ema_decay = name, _TARGETS[masks], 0.0
        config.model.depth = depth or config.model.depth
    checks.check(config)
    model = build_model(config.model, _TARGETS[masks], axis_name=None)
    tx = build_optimizer(config.optimizer, lambda _: 0.0)
    state = create_train_state(model, tx, seed=config.seed, image_shape=(256, 256, 1), ema=False)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    variables = torch_weights.from_torch(tensors, variables, name, source=str(source))
    state = dataclasses.replace(state, params=variables["params"], batch_stats=variables["batch_stats"])
    write_atomically(workdir / "config.json", to_json(config))
    with Checkpoints(workdir, config.checkpoint) as checkpoints:
        checkpoints.save(state, config, rank_value=None, progress={})
    parameters, statistics = (sum(np.size(x) for x in jax.tree.leaves(variables[c])) for c in ("params", "batch_stats"))
    print(
        f"{name}{f' of depth {depth}' if depth else ''}, {masks} mask(s): all tensors of {source} matched, "
        f"{parameters:,} parameters and {statistics:,} running statistics. "
        f"Evaluate it with --mode=evaluate --workdir={workdir}"
    )


def detect_network(tensors: torch_weights.Tensors, source: pathlib.Path) -> tuple[str, int | None, int]:
    """(our name of the network, depth of its ResNet or None, number of masks), from names and shapes of tensors."""
    if "up1.weight" in tensors and "final.4.weight" in tensors:
        name, depth, stem, head = "separable_unet", None, tensors.get("layer1.0.weight"), tensors["final.4.weight"]
    elif "encoder.conv1.weight" in tensors and "segmentation_head.0.weight" in tensors:
        blocks = [
            len({m[1] for n in tensors if (m := re.match(rf"encoder\.layer{s}\.(\d+)\.", n))}) for s in (1, 2, 3, 4)
        ]
        bottleneck = "encoder.layer1.0.conv3.weight" in tensors
        depths = [d for d, stages in STAGES.items() if list(stages) == blocks and (d >= 50) == bottleneck]
        if not depths:
            raise UserError(f"{source} has a ResNet of {blocks} blocks: only depths {list(STAGES)} can be imported.")
        name, depth = "resnet_unet", depths[0]
        stem, head = tensors["encoder.conv1.weight"], tensors["segmentation_head.0.weight"]
    else:
        raise UserError(
            f"{source} holds neither a segmentation_models_pytorch U-Net with a ResNet encoder nor the original "
            f"study's network (its first tensors are {', '.join(list(tensors)[:3]) or 'none'})."
        )
    if stem is None or stem.ndim != 4 or stem.shape[1] != 1:
        raise UserError(f"{source} does not take one-channel images: only networks for gray X-rays can be imported.")
    if head.ndim != 4:
        raise UserError(f"{source} ends with a tensor of shape {head.shape}, not with a convolution: it is damaged.")
    if head.shape[0] not in _TARGETS:
        raise UserError(
            f"{source} predicts {head.shape[0]} masks: only 1 (infection) or 2 (infection, lung) can be imported."
        )
    return name, depth, head.shape[0]
