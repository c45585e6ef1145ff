"""From a checkpoint to a verified engine set: plan, export, calibrate, quantise, gate, build, verify, report."""
