"""Run one stage in this process, from nothing, and print the memory that it took at most, as JSON.

    python benchmarks/peak_memory.py STAGE WORKLOAD

memory.py runs this once a stage. Nothing of the runtime, NumPy included, is imported before the watch begins.
"""

import json
import sys
import threading
from pathlib import Path
from types import TracebackType

SAMPLE_SECONDS = 0.01
_STATUS = Path("/proc/self/status")


class AnonymousMemoryWatch:
    """Samples this process's anonymous memory in a thread, for as long as its `with` block runs."""

    def __init__(self) -> None:
        self.peak = 0
        """Bytes; what comes and goes between two samples is missed."""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "AnonymousMemoryWatch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        self.peak = max(self.peak, memory_now("RssAnon"))


def memory_now(field: str, status: Path = _STATUS) -> int:
    """Return a field of this or another process's status (Linux) in bytes, such as `RssAnon` or `VmHWM`."""
    for line in status.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.removesuffix("kB")) * 1024
    raise OSError(f"{status} has no {field}; this benchmark needs Linux")


def peaks(watch: AnonymousMemoryWatch) -> dict[str, int]:
    """Return this process's peaks in bytes: of all that was resident, and of what a watch saw."""
    return {"peak_rss_bytes": memory_now("VmHWM"), "peak_anonymous_bytes": watch.peak}


def run_stage(name: str, workload: str) -> object:
    """Do what `name` stands for, and all that must come before it, once; return what must stay alive till the end."""
    from stages import COMPONENTS, STAGES, Workload

    if name == "import":
        return None
    settled = Workload(**json.loads(workload))
    pipeline = settled.load_pipeline()
    if name == "load":
        return [pipeline.components.open_session(component) for component in COMPONENTS]
    return STAGES[name](pipeline, settled)()


def main() -> None:
    """Run from memory.py's command line."""
    with AnonymousMemoryWatch() as anonymous:
        kept = run_stage(sys.argv[1], sys.argv[2])
    taken = peaks(anonymous)
    del kept
    json.dump(taken, sys.stdout)


if __name__ == "__main__":
    main()
