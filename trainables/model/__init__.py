"""The network of a trial: backbones, weights, the cut into frozen and trainable parts, heads."""
