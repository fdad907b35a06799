"""The network of a trial: backbones, weights, the cut into frozen prefix and trainable suffix, heads."""
