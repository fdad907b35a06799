"""How a trial trains: regimes, loop, optimizers, schedules, metrics, checkpoints."""
