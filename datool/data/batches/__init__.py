"""Training batches: which samples, their crops, augmentation and targets."""
