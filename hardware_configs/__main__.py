"""Checks hardware configs: ``python -m hardware_configs check FILE...``."""

from __future__ import annotations

import argparse
import sys

from hardware_configs.loader import ConfigError, load


def main(arguments: list[str] | None = None) -> int:
    """Prints OK and the hash of each valid file, the problems of the others; returns 1 if any."""
    parser = argparse.ArgumentParser(prog="python -m hardware_configs", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="read hardware configs and print what is wrong")
    check.add_argument("files", nargs="+", metavar="FILE", help="a robot's name or a YAML file")
    status = 0
    for file in parser.parse_args(arguments).files:
        try:
            print(f"{file}: OK {load(file).hash}")
        except ConfigError as problems:
            print(problems, file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
