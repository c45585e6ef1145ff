"""The latency harness: how fast, where the time goes, how far from the machine's limit, against what, and since when."""
