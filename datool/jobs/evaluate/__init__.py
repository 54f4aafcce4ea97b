"""The job of `datool eval`."""
