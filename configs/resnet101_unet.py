"""U-Net with a ResNet101 encoder (51.5 M parameters), from scratch or, with `:pretrained`, from ImageNet weights.

python launch.py --config=configs/resnet101_unet.py:pretrained --workdir=runs/resnet101_pretrained
"""

import ml_collections

from jaxunet.configs import default


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = default.get_config()
    config.model.name = "resnet_unet"
    config.optimizer.learning_rate = 3e-4
    config.train.total_epochs = 60
    config.train.eval_every_epochs = 5.0
    if variant == "pretrained":
        config.init.weights = "imagenet"
        config.model.input_mean, config.model.input_std = 0.449, 0.226  # ImageNet's, averaged over RGB
        config.optimizer.learning_rate = 1e-4
    elif variant:
        raise ValueError(f"resnet101_unet.py:{variant} is unknown: leave it out, or use :pretrained")
    return config
