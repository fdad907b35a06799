"""Synthetic training images: a class-conditional GAN, its training, and the measures of what it makes."""
