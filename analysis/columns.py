"""What the metrics mean, with their units: the documentation of the leaderboard's and the frames' columns."""

from __future__ import annotations

METRIC_COLUMNS = {
    "train_loss": "loss that was minimised, mean over the epoch's training images [nats]",
    "train_accuracy": "share of training images classified right while the weights changed, 0..1",
    "train_top3_accuracy": "share of training images whose class is among the three likeliest, 0..1",
    "val_loss": "cross-entropy, mean over the validation images [nats]",
    "val_accuracy": "share of validation images classified right, 0..1",
    "val_top3_accuracy": "share of validation images whose class is among the three likeliest, 0..1",
    "val_macro_f1": "mean over the classes of the harmonic mean of precision and recall, 0..1",
    "val_balanced_accuracy": "mean over the classes of recall, 0..1",
    "images_per_second": "training images a second [1/s]",
    "epoch_seconds": "training and validation of the epoch [s]",
    "learning_rate": "of the head at the epoch's last update; in a trial's row the hyperparameter",
    "images_at_once": "training images in one pass: less than the batch if asked or out of memory [count]",
    "peak_memory_gb": "most the trial allocated on its GPU so far; on a CPU what its process holds [GB]",
    "parameters": "weights of the classifier, head included [count]",
    "trainable_parameters": "weights that train, head included [count]",
}

EPOCH_COLUMNS = {
    "trial": "number of the trial in its study, from 0",
    "epoch": "from 1",
    "attempt": "of the trial, from 1; a retry counts up",
    "arrival": "when the epoch was recorded [unix s]",
    "decision": "the scheduler's: continue | stop | complete | failed",
}
