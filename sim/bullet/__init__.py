"""Environments in PyBullet."""
