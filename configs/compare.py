"""The original study's comparison, plus a plain U-Net: four systems on the same images, in one command.

python launch.py --mode=compare --config=configs/compare.py --workdir=runs/compare --config.dataset.source=covidqu.zip

With `:small`, a rehearsal of the whole comparison on 2 CPU cores: a quarter of the resolution, one epoch.
With `:two_cores`, what 2 CPU cores can compare: 128 x 128 pixels, 6 epochs; ImageNet weights by EfficientNet-Lite0.
"""

import ml_collections

from jaxunet.configs import default, efficientnet_unet, resnet101_unet, separable_unet

SHARED = ("seed", "dataset", "input", "eval", "checkpoint", "profile")  # the same for every system; overrides its own


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict({key: default.get_config()[key] for key in SHARED})
    config.systems = systems = ml_collections.ConfigDict()  # name -> config of one training
    systems.original_unet = separable_unet.get_config()
    systems.resnet101_scratch = resnet101_unet.get_config()
    systems.resnet101_pretrained = resnet101_unet.get_config("pretrained")
    systems.plain_unet = default.get_config()
    systems.plain_unet.dataset.targets = ("infection", "lung")
    if variant == "small":
        config.dataset.image_size = 64
        for system in systems.values():
            system.train.batch_size = 16
            system.train.total_epochs = 1
            system.train.eval_every_epochs = 1.0
            system.optimizer.warmup_epochs = 0.1
            system.optimizer.schedule = "cosine"
        systems.original_unet.optimizer.learning_rate = 1e-4  # its own 1e-5 is made for 201 epochs
    elif variant == "two_cores":
        config.dataset.image_size = 128
        config.dataset.drop_near_duplicates = True
        del systems.resnet101_pretrained
        for weights in ("scratch", "imagenet"):
            system = systems[f"efficientnet_{weights}"] = efficientnet_unet.get_config(weights.replace("imagenet", ""))
            system.dataset.train_config, system.dataset.targets = "infection", ("infection", "lung")
            system.augment.degrade = 0.0
        for name, system in systems.items():
            system.train.batch_size, system.train.total_epochs, system.train.eval_every_epochs = 8, 6, 2.0
            system.optimizer.schedule, system.optimizer.warmup_epochs = "cosine", 0.5
            if name != "original_unet":
                system.augment.translate_pixels = 8.0
        systems.original_unet.optimizer.learning_rate = 1e-4  # its own 1e-5 is made for 201 epochs
    elif variant:
        raise ValueError(f"compare.py:{variant} is unknown: leave it out, or use :small or :two_cores")
    return config.lock()
