"""Measurements in a process of their own, which nothing that ran before has warmed."""

import json
import os
import subprocess
import sys
import tempfile
from typing import Any


def child(script: str, *words: object, threads: int) -> dict[str, Any]:
    """What a script prints as JSON when it is run with these words; what was compiled before does not count.

    Raises:
        SystemExit: it fails; with what it wrote on stderr.
    """
    with tempfile.TemporaryDirectory() as compiled:
        around = {**os.environ, "OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_CACHE_DIR": compiled}
        command = [sys.executable, script, *map(str, words)]
        found = subprocess.run(command, capture_output=True, text=True, env=around)
    if found.returncode:
        raise SystemExit(found.stderr)
    return json.loads(found.stdout)
