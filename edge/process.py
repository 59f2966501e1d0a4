"""The agent's own process: no command line, no help texts, nothing that only people need; 8 MB less on a device.

`covey edge run` reads its options and becomes this (`exec`, the same process id), with the configuration on a file descriptor.

    python -m edge.process DESCRIPTOR
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING

import msgspec

from covey import runtime
from covey.errors import CoveyError

if TYPE_CHECKING:
    from edge.config import AgentConfig

# Small matrices: OpenBLAS would keep a buffer for each core, malloc an arena for each thread.
# Arrays that were freed go back to the system only while glibc does not move its threshold up to them.
_LEAN = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
}


def become(config: AgentConfig) -> None:
    """Go on as the agent; does not return.

    Raises:
        ModuleNotFoundError: what an agent needs is not installed; told while there is still a command line to tell it.
    """
    for name in ("numpy", "paho"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    descriptor = os.memfd_create("covey-edge")
    os.set_inheritable(descriptor, True)
    os.write(descriptor, msgspec.json.encode(config))
    os.lseek(descriptor, 0, os.SEEK_SET)
    safe = ["-P"] if sys.version_info >= (3, 11) else []  # no module from where the user stands
    command = [sys.executable, *safe, "-m", "edge.process", str(descriptor)]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command, {**_LEAN, **os.environ})  # noqa: S606  # no shell is wanted


def main() -> None:
    """Fly; one line and the error's exit code where it ends badly."""
    from edge.config import AgentConfig

    with os.fdopen(int(sys.argv[1]), "rb") as file:
        config = msgspec.json.decode(file.read(), type=AgentConfig)
    stop = runtime.install_stop()
    runtime.start_logging("edge", config.log_level, json_lines=config.log_json)
    from edge.agent import run

    try:
        run(config, stop)
    except CoveyError as error:
        print(f"covey: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
