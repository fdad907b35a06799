"""Training of a trial: regimes, loop, optimizers, schedules, metrics, checkpoints."""
