"""Serving: the Triton model repository, the launcher that starts the server on it, and the gRPC client. No torch."""
