"""Data sets: one module each, named in `datool.data.sources.table`."""
