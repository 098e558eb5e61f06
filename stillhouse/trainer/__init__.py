"""The training loop: learner, optimizer, precision, checkpoints, ranks."""
