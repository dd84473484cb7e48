"""One readable script per job: collect, train_beso, export, evaluate.

Most need what `make setup-train` installs over the robot's environment; without it they say so.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import TracebackType


def _name_what_is_missing(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    # A module missing from a package that is there is a mistake in code, not in the environment.
    if not name or find_spec(name.partition(".")[0]):
        sys.__excepthook__(kind, error, trace)
        return
    print(
        f"error: {name}: not installed for {sys.executable}, expected the training "
        "environment: `make setup-train`, then `. ros_ws/env.sh` or `.venv-train/bin/python`",
        file=sys.stderr,
    )


# Of scripts alone: whoever imports the package keeps the interpreter's own way with errors.
if sys.orig_argv[1:2] == ["-m"] and sys.orig_argv[2].startswith(f"{__name__}."):
    sys.excepthook = _name_what_is_missing
