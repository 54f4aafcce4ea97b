"""The jobs of `datool data`."""
