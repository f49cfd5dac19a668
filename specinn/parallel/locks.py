"""Which process works on what, among processes of any machine that share a folder and may be killed.

Locks of files (flock) end with their process, at once, but not every shared file system propagates them to
other machines. Creating a file that must not exist is safe everywhere, but the file outlives its process. So
both are used: on one machine the lock decides, between machines the file, as long as its owner keeps touching
it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from pathlib import Path

__all__ = ["BEAT", "STALE", "Claim", "Claims", "Lock", "lock_file", "machine"]

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

BEAT = 20.0  # seconds between touches of a claim
STALE = 180.0  # seconds without a touch after which a process on another machine counts as dead
_LOCK_STALE = 30.0  # seconds for which no other machine holds a Lock: its holders do so for milliseconds


def machine() -> str:
    """Identifies the running system within which locks of files certainly work."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        return socket.gethostname()


def lock_file(handle: int, *, wait: bool = False) -> bool | None:
    """Lock an open file or folder for as long as it is open, against the processes of this machine.

    False where another one has it; None where the file system has no such locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


class Lock:
    """Mutual exclusion for moments. ``acquire`` and ``release``, as Optuna wants them of a journal's lock."""

    def __init__(self, path: Path) -> None:
        self.path, self.link = path, path.with_name(f"{path.name}.owner")
        self._handle = -1

    def acquire(self) -> bool:
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            locked = lock_file(handle, wait=True)
            self._link(machine() if locked else "")  # without locks the link must suffice
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        return True

    def release(self) -> None:
        self.link.unlink(missing_ok=True)
        handle, self._handle = self._handle, -1
        os.close(handle)

    def _link(self, ours: str) -> None:
        """Wait for other machines. The holder of the lock of this machine may remove what is ``ours``: a
        process that was killed has left it."""
        seen, since, pause = None, time.monotonic(), 0.001
        while True:
            try:
                os.symlink(machine(), self.link)
                return
            except FileExistsError:
                pass
            with contextlib.suppress(FileNotFoundError):
                now = (os.readlink(self.link), os.lstat(self.link).st_mtime_ns)
                if now != seen:
                    seen, since = now, time.monotonic()
                if now[0] == ours or time.monotonic() - since > _LOCK_STALE:
                    self.link.unlink()
                    continue
            time.sleep(pause)
            pause = min(2 * pause, 0.2)

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Claims:
    """The claims in one folder; what is claimed has a number."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.turn = Lock(folder / "turn")

    def take(self, number: int) -> Claim | None:
        """The claim to ``number``, or None where a living process has it.

        A claim that is taken over from a dead process is the next generation of it, and the process that
        creates the file of a generation holds it.
        """
        generations = [int(path.suffix[1:]) for path in self.folder.glob(f"{number:04d}.*")]
        last = max(generations, default=0)
        if last and self._alive(self.folder / f"{number:04d}.{last}"):
            return None
        path = self.folder / f"{number:04d}.{last + 1}"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return None
        lock_file(handle)
        os.write(handle, machine().encode())  # after the lock: a process that reads this may test the lock
        return Claim(path, handle)

    def _alive(self, path: Path) -> bool:
        try:
            with path.open("r+b") as file:
                locked = lock_file(file.fileno()) if file.read() == machine().encode() else None
            return self._age(path) < STALE if locked is None else not locked
        except FileNotFoundError:
            return False

    def _age(self, path: Path) -> float:
        """Seconds since the last touch, by the clock of the file system: those of machines differ."""
        clock = self.folder / "clock"
        clock.touch()
        return clock.stat().st_mtime - path.stat().st_mtime


class Claim:
    """A claim that is held. As a context it is touched in the background, and released at the end."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path, self._handle = path, handle
        self._ended = threading.Event()

    @property
    def held(self) -> bool:
        """False where another machine has taken it over: this process was thought dead, or suspended."""
        return not self.path.with_suffix(f".{int(self.path.suffix[1:]) + 1}").exists()

    def release(self) -> None:
        self._ended.set()
        if self.held:
            for path in self.path.parent.glob(f"{self.path.stem}.*"):
                path.unlink(missing_ok=True)
        os.close(self._handle)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def __enter__(self) -> Claim:
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
