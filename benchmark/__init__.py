"""The latency harness: how fast, where the time goes, how far from the limit, compared with what, since when."""
