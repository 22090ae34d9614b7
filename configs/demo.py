"""The whole program on built-in synthetic X-rays, in about two minutes on 2 CPU cores; no download.

python launch.py --config=configs/demo.py --workdir=runs/demo
python launch.py --mode=evaluate --workdir=runs/demo --split=test
"""

import ml_collections

from jaxunet.configs import default


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()
    config.dataset.name = "synthetic_cxr"
    config.dataset.data_dir = "runs/data"
    config.dataset.synthetic.train = 224
    config.dataset.synthetic.val = 24
    config.dataset.synthetic.test = 48
    config.model.channels = (16, 32, 64, 96)
    config.model.stem = 4
    config.optimizer.learning_rate = 4e-3
    config.train.batch_size = 8
    config.train.total_epochs = 14
    config.train.eval_every_epochs = 3.5
    config.train.ema_decay = 0.98
    return config
