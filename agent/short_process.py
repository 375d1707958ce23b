"""A command that prints lines and may not live long: started, looked at now and then, ended.

Looking never waits, so that the agent's loop can do it. If the agent is killed, the command's next
line ends it: nobody reads its pipe any more.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

# [bytes] What a pipe holds, so that one look empties it.
MAX_READ_BYTES = 64 * 1024
# [bytes] A longer line loses its beginning.
MAX_LINE_BYTES = 16 * 1024


class ShortProcess:
    """Runs a command for at most `life_s`.

    Args:
        command: The program and its arguments.
        life_s: Seconds until it is killed.
        now: Monotonic seconds.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, command: Sequence[str], *, life_s: float, now: float) -> None:
        self._ends_at = now + life_s
        self._rest = b""
        self._process = subprocess.Popen(  # noqa: S603 - a fixed command of the board's vendor
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            close_fds=True,
        )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout
        os.set_blocking(self._pipe.fileno(), False)

    def lines(self, now: float) -> list[str] | None:
        """Return the whole lines since the last call; None once the command has ended."""
        if self._pipe.closed:
            return None
        ended = self._process.poll() is not None
        lines = self._read()
        if now >= self._ends_at:
            self.close()
        elif ended:
            self.close()
            lines += [self._rest.decode(errors="replace")] if self._rest else []
        return lines

    def close(self) -> None:
        """End the command; harmless when called again."""
        if not self._pipe.closed:
            self._process.kill()
            self._process.wait()
            self._pipe.close()

    def _read(self) -> list[str]:
        try:
            arrived = os.read(self._pipe.fileno(), MAX_READ_BYTES)
        except BlockingIOError:
            return []
        *lines, rest = (self._rest + arrived).split(b"\n")
        self._rest = rest[-MAX_LINE_BYTES:]
        return [line.decode(errors="replace") for line in lines]
