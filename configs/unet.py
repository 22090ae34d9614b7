"""Plain U-Net (1.6 M parameters): infection, lung, and whether it is COVID-19, on the real COVID-QU-Ex X-rays.

python launch.py --config=configs/unet.py --workdir=runs/unet --config.dataset.source=covidqu.zip

The weights that come with jaxunet were made by this command: docs/recipe.md has its time, its scores, and the reasons.
"""

import ml_collections

from jaxunet.configs import default


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()
    config.dataset.train_config = "infection_all"
    config.dataset.targets = ("infection", "lung", "covid19")
    config.dataset.drop_near_duplicates = True
    config.dataset.image_size = 128
    config.augment.translate_pixels = 8.0
    config.train.batch_size = 4
    config.train.total_epochs = 36
    config.train.ema_decay = 0.999
    config.eval.flips = True
    return config
