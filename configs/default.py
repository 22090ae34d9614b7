"""Every setting, with its unit. Other configs start from this one; on its own it is the plain U-Net on COVID-QU-Ex.

    python launch.py --config=configs/default.py --workdir=runs/unet --config.dataset.source=covidqu.zip

Override any key with `--config.section.key=value`; tuples as `--config.model.channels="(32,64)"`.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.seed = 0  # all randomness follows from it and the step number

    config.dataset = dataset = ml_collections.ConfigDict()
    dataset.name = "covid_qu_ex"  # "synthetic_cxr"; "folder", your own; "labelled_images" pretrains encoders on classes
    dataset.source = ""  # the archive as downloaded, or its extracted folder; "" searches <data_dir>/downloads/manual
    dataset.spec = ""  # folder: a dataset.json; "" is SOURCE/dataset.json. A run keeps the text of the file here
    dataset.fold = ""  # folder: "0/5" to "4/5" validates on one fifth of the images that are not for testing
    dataset.data_dir = ""  # where prepared datasets live; "" is ~/tensorflow_datasets
    dataset.train_config = "infection"  # COVID-19 images only; "infection_all" adds controls; "lung" has lung masks
    dataset.eval_config = "infection_all"  # validation and test: with controls, so that P3 exists
    # Masks to learn: "infection", "lung" or both. The first one ranks checkpoints. "covid19" may follow: an answer for
    # the whole image. It needs train_config "infection_all"; infection is then learnt from the COVID-19 images only.
    dataset.targets = ("infection",)
    dataset.image_size = 0  # pixels per side: 0 keeps the 256 of the files, 32, 64 or 128 average blocks of them
    dataset.drop_leaked = True  # leave out training images identical to a validation or test image
    dataset.drop_near_duplicates = False  # and those nearly identical to one; --mode=verify draws them
    dataset.synthetic = ml_collections.ConfigDict()
    dataset.synthetic.train = 320  # COVID-19 images per split; "infection_all" adds as many controls
    dataset.synthetic.val = 48
    dataset.synthetic.test = 64
    dataset.synthetic.seed = 0

    config.input = ml_collections.ConfigDict()
    config.input.mode = "auto"  # "resident" on the device, "stream" from disk, "auto" = resident if it fits
    config.input.resident_limit_gib = 8.0  # "auto" streams above this many GiB of training data
    config.input.threads = 4  # threads that decode images
    config.input.prefetch_batches = 8  # decoded ahead when streaming

    config.augment = augment = ml_collections.ConfigDict()
    augment.flip_horizontal = True  # with probability 1/2
    augment.flip_vertical = False
    augment.quarter_turns = False  # 0, 90, 180 or 270 degrees
    augment.rotate_degrees = 10.0  # +- degrees, at most 45; 0 is off, as for all ranges below
    augment.scale = 0.15  # +- share of the size
    augment.translate_pixels = 16.0  # +- pixels, each axis
    augment.gamma = 0.25  # exponent between 1 / (1 + gamma) and 1 + gamma
    augment.contrast = 0.2  # +- share, about the image's mean
    augment.brightness = 0.1  # +- added, intensities being in [0, 1]
    augment.noise_std = 0.0  # of Gaussian noise, intensities being in [0, 1]
    augment.degrade = 0.0  # share of images that get other gamma, margins, low resolution, blur, noise, JPEG

    config.model = model = ml_collections.ConfigDict()
    model.name = "unet"  # "unet", "resnet_unet", "efficientnet_unet", "separable_unet"
    model.channels = (16, 32, 64, 128, 192)  # unet: width of each level, finest first; their number is the depth
    model.stem = 2  # unet: pixels per side that the finest level takes together; 1 is the textbook U-Net
    model.depth = 101  # resnet_unet: 18, 34, 50, 101 or 152
    model.lite = 0  # efficientnet_unet: 0, 1 or 2
    model.answer_inside = ""  # a mask such as "lung": the answer "covid19" depends on what is inside it alone
    model.input_mean = 0.0  # images, in [0, 1], reach the network as (image - input_mean) / input_std
    model.input_std = 1.0
    model.layout = "auto"  # resnet_unet: "plain", "patches" (same values, fewer bytes on TPUs), "auto" by device
    model.dtype = "auto"  # of activations: "float32", "bfloat16", "auto" = bfloat16 except on CPU
    model.bn_momentum = 0.9  # share of the old running statistics kept at each step
    model.bn_sync = True  # batch statistics over the global batch, so that n devices equal one

    config.init = ml_collections.ConfigDict()  # where a run starts; the first two are for a new run
    config.init.weights = ""  # "imagenet" (encoder; docs/pretraining.md), or a .safetensors or .pth file
    config.init.run = ""  # workdir of another run: its latest weights, wherever name and shape agree
    config.init.accept_changes = False  # continue a run although its settings or images are not those it was trained on

    config.loss = loss = ml_collections.ConfigDict()
    loss.name = "bce_dice"  # "bce", "dice", "bce_dice", "focal", "tversky"; "cross_entropy" for classes
    loss.smooth = 1.0  # pixels added to both sides of Dice and Tversky
    loss.focal_gamma = 2.0
    loss.focal_alpha = 0.25  # weight of infected pixels
    loss.tversky_alpha = 0.3  # weight of false positives
    loss.tversky_beta = 0.7  # weight of false negatives

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = "adamw"  # "adam", "adamw", "sgd"
    optimizer.learning_rate = 2e-3  # peak
    optimizer.schedule = "cosine"  # "constant", "step", "cosine"
    optimizer.warmup_epochs = 1.0  # linear from zero; counted in every schedule
    optimizer.decay_epochs = 50.0  # "step": epochs between two multiplications by decay_factor
    optimizer.decay_factor = 0.5
    optimizer.final_fraction = 0.0  # "cosine": last rate as a share of the peak
    optimizer.beta1 = 0.9  # adam, adamw
    optimizer.beta2 = 0.999
    optimizer.momentum = 0.9  # sgd
    optimizer.nesterov = True
    optimizer.weight_decay = 0.01  # adamw, sgd; kernels only
    optimizer.encoder_rate = 1.0  # learning rate of the encoder as a share of the network's; 0 freezes its weights
    optimizer.clip_norm = 1.0  # global norm of the gradient; 0 is off

    config.train = train = ml_collections.ConfigDict()
    train.batch_size = 16  # images per step over all devices
    train.total_epochs = 32  # exactly one of total_epochs and total_steps is set, the other is 0
    train.total_steps = 0
    train.accumulate_steps = 1  # parts that each device splits its share of a batch into, to save memory
    train.ema_decay = 0.998  # of weights and batch statistics, per step; 0 is off
    train.eval_every_epochs = 2.0  # validation and checkpoint; the last step is always validated
    train.patience_evals = 0  # stop after this many validations in a row without a new best; 0 is off
    train.log_every_steps = 20
    train.checkpoint_every_steps = 500  # every validation saves one too
    train.steps_per_call = 0  # steps in one compiled program, resident mode; 0 = 1 on CPU, 50 on accelerators

    config.eval = ml_collections.ConfigDict()
    config.eval.batch_size = 32  # images per call over all devices
    config.eval.threshold = 0.5  # a pixel is positive where its probability exceeds this
    config.eval.overlays = 8  # number of best images, and of worst images, to draw; of Val while training, at most 4
    config.eval.surface_tolerances = (2.0, 5.0)  # pixels, of the surface Dice in --mode=evaluate
    config.eval.flips = False  # mean probability of each X-ray and its mirror image; not in validation while training
    config.eval.gate = False  # predict, serve: no infection where "covid19" says no; not kept with a run
    config.eval.corruptions = False  # evaluate: also on blurred, noisy, turned images; not kept with a run
    config.eval.report = True  # one HTML page with all numbers and pictures, 10 to 35 KB per image of 256 x 256

    config.predict = ml_collections.ConfigDict()  # of DICOM files; neither is kept with a run
    config.predict.keep_patient = False  # segmentations name patient and study, as a PACS needs (docs/pacs.md)
    config.predict.report = False  # also write the measures as a DICOM structured report

    config.profile = False  # write a trace of a few calls into <workdir>/profile, for TensorBoard or Perfetto
    config.track = ""  # besides TensorBoard: "mlflow", "trackio", "wandb", or several with commas (docs/trackers.md)

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.keep_latest = 2
    config.checkpoint.keep_best = 1  # by validation Dice (P1)
    return config.lock()
