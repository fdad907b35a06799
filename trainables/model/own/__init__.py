"""Networks that are built here, one file each: `make(*options, image_size)` gives a backbone."""
