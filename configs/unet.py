"""Plain U-Net (1.6 M parameters) that predicts infection and lung together, on the real COVID-QU-Ex X-rays.

python launch.py --config=configs/unet.py --workdir=runs/unet --config.dataset.source=covidqu.zip

The weights that come with jaxunet were made by this command: docs/recipe.md has its time, its scores, and the reasons.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()
    config.dataset.targets = ("infection", "lung")
    config.dataset.drop_near_duplicates = True
    config.train.total_epochs = 10
    return config
