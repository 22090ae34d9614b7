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
predictor.py        a checkpoint as a function: images -> logits; means of flips and of several runs (averaging.py)
evaluate.py         exact scores of a checkpoint, with tables, pictures (plots.py), and a page (report.py):
per_image.py        every number of every image (surface.py: distances between outlines)
analysis.py         lesion size, severity, detection, gated protocols, calibration, thresholds; intervals (bootstrap.py)
predict.py          any X-rays -> masks and tables: xray_files.py lists them, xray.py (dicom.py) reads one, letterbox.py
                    fits it to the network, findings.py measures masks, prediction_files.py and prediction_log.py write
serve.py            the same for one X-ray at a time, on a page in the browser that web_guard.py keeps to itself
export.py           a checkpoint as one file for elsewhere (onnx_graph.py), with its model_card.py
compare.py          several systems side by side, with paired intervals
preflight.py        what a config will do on a TPU slice, by compiling it (hlo.py, hardware.py, roofline.py)
config.py           checks of the config before anything is built (config_values.py)
locations.py        local folders and buckets
run.py              one call per `launch.py --mode`
"""
