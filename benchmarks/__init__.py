"""What is claimed of speed, measured beside its baseline: `make bench`."""
