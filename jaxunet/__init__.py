"""jaxunet: segmentation of COVID-19 pneumonia on chest X-rays. The folders are the stages, in the order of the data.

core/        errors in one sentence, files written atomically, PNG pictures
devices/     several processes and several devices: joining, replicas (the only place of pmap), peak rates
xrays/       any X-ray file -> 8-bit gray pixels, fitted to a network
data/        COVID-QU-Ex archive or drawn X-rays -> verified TFDS dataset -> ordered, augmented batches
models/      networks: image -> logits; weights in PyTorch's naming
scoring/     losses; integer counts -> protocols P1 to P3 with intervals; COVID-19 or not; one pass over a split
runs/        settings and their checks, config.json, checkpoints, metrics.jsonl
training/    the loop, the step, the optimizer, where weights start from
prediction/  a checkpoint as a function; masks, measures, tables and pages for X-rays
evaluation/  exact scores of a checkpoint: tables, pictures, report; several systems compared
export/      a checkpoint as one file for elsewhere, with its model card
preflight/   what a config will need on accelerators, by compiling it ahead of time
commands.py  one call per `launch.py --mode`

A package imports only from those above it; tests/test_house.py holds that.
"""
