"""The job of `datool pointcloud`."""
