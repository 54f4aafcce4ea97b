"""Pseudo-labels of millions of photos: units of work, leases, workers, and the set that they write."""
