"""Your own X-rays and masks: a folder with images/ and one folder of masks per target (docs/your_data.md).

jaxunet data inspect FOLDER
jaxunet train --config=folder --config.dataset.source=FOLDER --workdir=runs/mine
"""

import ml_collections

from jaxunet.configs import default


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()
    config.dataset.name = "folder"
    config.dataset.train_config = config.dataset.eval_config = "all"
    config.dataset.targets = ()  # all of dataset.json, in its order; the first one ranks checkpoints
    config.train.batch_size = 4
    config.train.total_epochs = 100
    config.train.eval_every_epochs = 5.0
    return config
