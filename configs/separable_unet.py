"""The original study's own network (54.7 M parameters) as it trained it: BCE, Adam at 1e-5, halved every 50 epochs.

python launch.py --config=configs/separable_unet.py --workdir=runs/separable --config.dataset.source=covidqu.zip
"""

import ml_collections

from jaxunet.configs import default


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()
    config.model.name = "separable_unet"
    config.loss.name = "bce"
    config.optimizer.name = "adam"
    config.optimizer.weight_decay = 0.0
    config.optimizer.learning_rate = 1e-5
    config.optimizer.schedule = "step"
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.clip_norm = 0.0
    config.train.batch_size = 64
    config.train.total_epochs = 201
    config.train.eval_every_epochs = 5.0
    config.train.ema_decay = 0.0
    for key in ("rotate_degrees", "scale", "translate_pixels", "gamma", "contrast", "brightness"):
        config.augment[key] = 0.0
    config.augment.flip_horizontal = False
    return config
