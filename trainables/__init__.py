"""One trial: backbone, head, regime, data, augmentation, training loop, caches."""
