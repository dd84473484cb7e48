"""Lets the tests of the platform import their helper and the set-up's modules."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "ros_ws" / "setup")]
