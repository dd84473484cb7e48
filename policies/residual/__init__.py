"""Residual policies: a small correction on every step of a frozen chunk policy."""
