"""Pretrains an encoder by classification, on folders `train/<class>/<image>` and `val/<class>/<image>`, or a prepared
TFDS dataset such as ImageNet (its folder, stored as array_record).

python launch.py --config=configs/classify.py:resnet_unet --workdir=runs/imagenet --config.dataset.source=FOLDER
python launch.py --config=configs/resnet101_unet.py --workdir=runs/resnet101 --config.init.run=runs/imagenet

The argument is the network whose encoder is trained: unet (if left out), resnet_unet or separable_unet.
"""

import ml_collections

from jaxunet.configs import default


def get_config(model: str = "unet") -> ml_collections.ConfigDict:
    config = default.get_config()
    config.dataset.name = "labelled_images"
    config.dataset.targets = ("class",)
    config.dataset.image_size = 224
    config.model.name = model
    config.loss.name = "cross_entropy"
    config.augment.scale = 0.3
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.05
    config.optimizer.warmup_epochs = 5.0
    config.train.batch_size = 256
    config.train.total_epochs = 90
    config.train.eval_every_epochs = 1.0
    config.train.ema_decay = 0.9998
    config.eval.batch_size = 256
    return config
