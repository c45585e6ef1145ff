"""The latency harness: how fast, where time goes, how far from the limit, against what, and since when."""
