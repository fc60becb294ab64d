"""Progress of what takes long: a bar on a terminal, a line now and then anywhere else.

with progress(total=345, unit="step") as shown:
    shown.update()
"""

import sys
import time
from typing import Any

from tqdm import tqdm

SECONDS = 30  # between two lines


class Lines(tqdm):
    """A bar for a file or a pipe, which keep all that a terminal writes over.

    A line comes at most every so many seconds, of all bars together: short ones write none.
    """

    shown_at = time.monotonic()  # when the last line was written

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Write a line, if it is time; tqdm calls this whenever its bar would be drawn."""
        now = time.monotonic()
        # tqdm begins with a bar of 0%.
        if self.n == self.initial or now - Lines.shown_at < SECONDS:
            return False
        Lines.shown_at = now
        self.fp.write(f"{self}\n")
        self.fp.flush()
        return True

    def close(self) -> None:
        """End without the line feed that ends a bar."""
        if not self.disable:
            self.display()
        # So tqdm knows bars that no terminal shows, and leaves this one as it is.
        self.sp = None
        super().close()


def progress(shown: bool = True, **bar: Any) -> tqdm:
    """A bar of tqdm's on stderr: a bar on a terminal, Lines in a file or a pipe.

    Args:
        shown: False: nothing, as where another process shows the same.
        bar: tqdm's own arguments: total, desc, unit ...
    """
    if not shown:
        # Only then: `disable` would overrule TQDM_DISABLE.
        bar["disable"] = True
    if sys.stderr and sys.stderr.isatty():
        return tqdm(**bar)
    # Of no width, it has numbers alone.
    return Lines(ncols=0, **bar)
