"""Which process this is and of how many. One for now; a launcher's environment with more is refused, not half obeyed."""
import os

from utils import UserError


def rank() -> int:
    """The number of this process, from 0; the first writes files and prints."""
    return 0


def refuse_other_processes() -> None:
    """UserError if a launcher has started more than this one."""
    if (n := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise UserError(f"WORLD_SIZE={n}: training in several processes is not supported yet; start one process, "
                        f"which uses all visible GPUs")
