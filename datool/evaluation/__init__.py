"""Predictions against truth."""
