"""The job of `datool calibrate`."""
