"""Training: the loop, post-training recipes, batches, losses, optimizers, precision, several devices, the cache."""
