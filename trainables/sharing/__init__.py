"""What trials share: decoded images, frozen activations, and the measurements that decide what to keep."""
