"""Drawn characters in motion: from a seed to a rendered clip. Without torch: calibration renders with them, too."""
