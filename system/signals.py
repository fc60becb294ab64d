"""Signals to end: work is brought to a good end, or given up at once.

with Signals() as signals:
    while not signals.number:  # which one has come
        work()
"""

import os
import signal
import socket
import threading
import time
import types
from typing import Any


class Interrupted(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP has come; the message says what becomes of the work."""

    raised = False  # whether a signal has led to one

    def __init__(self, number: int, message: str = ""):
        super().__init__(message)
        self.number = number
        Interrupted.raised = True


ENDING: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
if hasattr(signal, "SIGHUP"):  # Windows has none
    ENDING[signal.SIGHUP] = "hung up"


class Signals:
    """Within it, a first SIGINT, SIGTERM or SIGHUP does no harm, but is remembered.

    `with Signals() as signals:` work can be brought to a good end; `signals.number` says which one
    has come. `at_once`: it raises Interrupted instead. A second one ends the process. A SIGHUP that
    is ignored (nohup) stays so.

    What comes within a second of the first is the same one: a scheduler and torchrun may both send
    it.
    """

    def __init__(self, at_once: bool = False):
        self.at_once, self.number = at_once, 0
        # The handlers before, by signal, and what watch() reads from and Python writes to, if so.
        self.before: dict[int, Any] = {}
        self.wakeup: tuple[socket.socket, socket.socket] | None = None

    def handle(self, number: int, frame: types.FrameType | None) -> None:
        """Python calls this between two of its instructions."""
        # The first signal alone counts; watch() deals with those that follow.
        if not self.number and not Interrupted.raised:
            self.number = number
            if self.at_once:
                raise Interrupted(number)

    def __enter__(self) -> "Signals":
        Interrupted.raised = False
        # Python handles signals in its main thread alone, and refuses handlers elsewhere.
        if threading.current_thread() is threading.main_thread():
            self.before = {
                number: signal.signal(number, self.handle)
                for number, word in ENDING.items()
                # nohup has SIGHUP ignored, so that a command survives the end of its terminal.
                if word != "hung up" or signal.getsignal(number) != signal.SIG_IGN
            }
            # Python writes each signal's number to this socket, even while it waits in C code,
            # where no handler runs. Windows lets sockets alone be written to without waiting.
            if (outer := signal.set_wakeup_fd(-1)) >= 0:  # somebody watches already
                signal.set_wakeup_fd(outer)
            else:
                self.wakeup = read, write = socket.socketpair()
                # The handler of the system must not block where nobody reads.
                write.setblocking(False)
                signal.set_wakeup_fd(write.fileno())
                threading.Thread(target=watch, args=(read,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # A notebook gets its own handlers back.
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.wakeup:
            signal.set_wakeup_fd(-1)
            self.wakeup[1].close()


def watch(signals: socket.socket) -> None:
    """End the process on a second signal, whatever it is at."""
    since = 0.0
    while data := signals.recv(1):  # until nobody writes any more
        if data[0] not in ENDING:  # any signal that Python handles comes this way
            continue
        # The same end, sent twice by torchrun and a scheduler, comes within a second.
        if since and time.monotonic() - since > 1:
            # Without cleaning up: who sends a second signal does not want to wait.
            os._exit(128 + data[0])
        since = since or time.monotonic()
    signals.close()
