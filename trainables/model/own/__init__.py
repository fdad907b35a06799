"""Own networks, one file each, whose `make(*options, image_size)` builds a backbone."""
