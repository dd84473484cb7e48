"""Every unit is tested in one thread, as it is trained and served: on a machine that is busy with
something else, threads that wait for each other take minutes where one takes seconds.
"""

from __future__ import annotations

import os

# Read when torch is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
