"""Shared by all tests: sim comes before mujoco, so that pictures work without a display."""

import sim  # noqa: F401
