"""The job of `datool predict`."""
