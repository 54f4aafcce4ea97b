"""Image in, DepthMap out."""
