"""What computes depth: networks on the CPU and GPUs, and exported files."""
