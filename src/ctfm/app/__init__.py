"""Semantic search as a page in the browser: `ctfm app`."""
