"""How much memory this process may still take: of the machine, and within its control groups (Linux)."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_PROC = Path("/proc")
_MEMBERSHIP = re.compile(r"\d+:(.*?):(.*)")
"""A line of cgroup(7): controllers and path; `4:memory:/user/1` (version 1) or `0::/user/1` (version 2)."""
_MOUNT = re.compile(r"(?:\S+ ){3}(\S+) (\S+) .*?- (\S+) \S* (\S+)")
"""A line of proc_pid_mountinfo(5): root, mount point, kind and options; the source between the latter may be empty."""


def free_memory(proc: Path = _PROC) -> int | None:
    """Return the bytes that can be had without swapping, or None where the system does not tell.

    That is the smaller of what Linux calls available and what each memory control group (version 1 or 2) that this
    process is in, up to the outermost, leaves below its limit, where pages of files count as free: they can be dropped.
    """
    try:
        available = _field(proc / "meminfo", "MemAvailable:") * 1024
    except (OSError, ValueError):
        return None
    return int(min([available, *(_left(group) for group in _memory_groups(proc))]))


def own_anonymous_memory(proc: Path = _PROC) -> int:
    """Return the bytes of this process that no file backs, so that they cannot be dropped; 0 where unknown."""
    try:
        return _field(proc / "self" / "status", "RssAnon:") * 1024
    except (OSError, ValueError):
        return 0


def _memory_groups(proc: Path) -> Iterator[Path]:
    """Yield the folders of this process's memory control groups, the innermost first."""
    try:
        memberships = (proc / "self" / "cgroup").read_text(errors="surrogateescape").splitlines()
        mounts = (proc / "self" / "mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return
    paths = {}
    for controllers, path in _fields(_MEMBERSHIP, memberships):
        if not controllers or "memory" in controllers.split(","):
            paths["cgroup" if controllers else "cgroup2"] = PurePosixPath(path)
    for root, point, kind, options in _fields(_MOUNT, mounts):
        if kind not in paths or (kind == "cgroup" and "memory" not in options.split(",")):
            continue
        # Inside a container the group's own path may be the mount's root, or lie outside what is mounted.
        inside = paths[kind].is_relative_to(root)
        folder = Path(point, paths[kind].relative_to(root)) if inside else Path(point)
        yield from (group for group in (folder, *folder.parents) if group.is_relative_to(point))


def _fields(pattern: re.Pattern[str], lines: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield the parts of the lines that are as they should be."""
    return (match.groups() for match in map(pattern.fullmatch, lines) if match)


def _left(group: Path) -> float:
    """Return the bytes that a control group leaves, infinite if it has no limit."""
    for limits, usage, prefix in (
        (("memory.max", "memory.high"), "memory.current", ""),
        (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_"),
    ):
        try:
            limit = min(_limit(group / name) for name in limits)
            used = int((group / usage).read_text())
            files = sum(_field(group / "memory.stat", f"{prefix}{kind}_file") for kind in ("active", "inactive"))
        except (OSError, ValueError):  # the other version, or the outermost group, which has none of these
            continue
        return max(limit - used + files, 0)
    return float("inf")


def _limit(path: Path) -> float:
    text = path.read_text().strip()
    return float("inf") if text == "max" else int(text)


def _field(path: Path, name: str) -> int:
    """Return the number after a name in a file of lines such as `MemAvailable: 1234 kB`."""
    for line in path.read_text().splitlines():
        words = line.split()
        if words[:1] == [name]:
            return int(words[1])
    raise OSError(f"{path} has no {name}")
