"""jaxunet: segmentation of COVID-19 pneumonia on chest X-rays. The files, in the order of the data:

dataset/            COVID-QU-Ex archive -> verified TFDS dataset; synthetic X-rays with the same features
input_pipeline.py   dataset -> device-resident arrays or a stream of raw batches; exact evaluation batches
augment.py          paired image and mask transforms, on the device
models/             networks: image -> logits
losses.py           logits, mask -> one loss per image
metrics.py          logits, mask -> integer counts -> protocols P1, P2, P3
optimizer.py        schedule and Optax transformation
train_state.py      what training changes
initialize.py       where the weights of a new run come from
import_torch.py     a trained PyTorch network becomes a workdir
tasks.py            what is learnt: masks, or classes to pretrain an encoder
train_step.py       what one replica does
parallel.py         how replicas are mapped and reduced
distributed.py      several processes: joining, agreeing, stopping together
train.py            the loop
progress.py         what the loop says: means, speed, whether it waits for input
checkpoint.py       saving and restoring
metric_writer.py    what a run leaves to read
predictor.py        a checkpoint as a function: images -> logits
evaluate.py         exact scores of a checkpoint, with tables and pictures (plots.py)
compare.py          several systems side by side, with paired intervals
preflight.py        what a config will do on a TPU slice, by compiling it (hlo.py, hardware.py, roofline.py)
config.py           checks of the config before anything is built
locations.py        local folders and buckets
run.py              one call per `launch.py --mode`
"""
