"""A short run of several processes in which the second one does something at step 7; started by
tests/faults.py:

$ torchrun --nproc_per_node 2 tests/lost.py MODE SAMPLE OUT
"""

import os
import signal
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

import torch
from kinds import TASK_OF
from processes import trainer

import train
from system import distributed
from system.cli import one_line_errors
from training import runs
from utils import UserError, rank


def main(mode: str, sample: Path, out: Path) -> None:
    second, word = rank() == 1, mode.removesuffix("-sharded")
    if second and word == "absent":
        time.sleep(1000)
    distributed.start()
    one = trainer(
        "sentences",
        sample,
        out,
        word != mode,
        gradient_accumulation=1,
        save_steps=5,
        **({"lr": 0.5} if second and word == "flags" else {}),
    )
    with runs.run_lock(
        out, {"sha256 of data_file": "0123" if second and word == "data" else "4567"}
    ):
        pass

    def get_loss(model: torch.nn.Module, batch: train.Batch) -> tuple[torch.Tensor, dict]:
        loss, metrics = TASK_OF["sentences"].loss(model, batch)
        if second and one.state.step == 7:
            if word == "nan":
                loss = loss * float("nan")
            if word == "infinite":  # the gradient alone
                loss = loss.clone()
                loss.register_hook(lambda grad: grad * float("inf"))
            if word == "hang":
                time.sleep(1000)
            if word == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if word == "error":
                raise UserError("rows.tsv, line 3: two columns; expected 3; mend the line")
            if word == "crash":
                raise ZeroDivisionError("a mistake of ours")
        return loss, metrics

    one.train(get_loss)


if __name__ == "__main__":
    with one_line_errors("lost.py"):
        main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
