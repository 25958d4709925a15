"""What the benchmark scripts share: cases and contestants, equality, interleaved timing, records."""
