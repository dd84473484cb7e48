#!/bin/sh
# Chooses a Python that really runs and hands over to install.py: setup.sh [--training]
# PYTHON=/path/to/python3 overrides the choice.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(dirname -- "$here")

# Our own environments are what is to be made.
case "$PATH" in
    *"$root/.venv"*) PATH=$(printf %s "$PATH" | tr : '\n' | grep -v "^$root/.venv" | paste -sd :) ;;
esac

usable() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1 </dev/null
}

if [ -n "${PYTHON:-}" ]; then
    usable "$PYTHON" || {
        echo "setup: PYTHON: got '$PYTHON' ($("$PYTHON" --version 2>&1 || true)), expected a Python 3.11, 3.12 or 3.13" >&2
        exit 1
    }
else
    candidates="python3.11 python3.12 python3.13 python3"
    # A sourced ROS 2 is built for the system's python3.
    if [ -n "${ROS_DISTRO:-}" ] && [ -z "${VIRTUAL_ENV:-}" ]; then
        candidates="python3 $candidates"
    fi
    for PYTHON in $candidates; do
        if usable "$PYTHON"; then break; fi
        PYTHON=
    done
    if [ -z "$PYTHON" ]; then
        echo "setup: no Python 3.11, 3.12 or 3.13 found: apt install python3 python3-venv python3-dev," \
             "or name one: make setup PYTHON=/path/to/python3" >&2
        exit 1
    fi
fi
exec "$PYTHON" -I "$here/install.py" "$@" </dev/null
