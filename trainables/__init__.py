"""What one trial does: backbone, head, regime, data, augmentation, loop, caches."""
