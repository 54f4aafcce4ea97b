"""What is minimised, over what, and how a run is kept."""
