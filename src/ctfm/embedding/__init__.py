"""Frozen features: any scan to vectors, exact search among them, and probes on them."""
