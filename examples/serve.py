"""Answer over HTTP with a trained model: texts in, labels and probabilities out, as JSON.

    $ pip install fastapi uvicorn
    $ python examples/serve.py runs/mine [--port 8000]
    $ curl -d '["A joy to watch."]' -H 'Content-Type: application/json' localhost:8000/predict
    [{"answer":"1","confidence":0.998,"probabilities":{"0":0.002,"1":0.998}}]

Requests that arrive while the model computes are answered together after it, in one call of
predict(), which sorts texts by length. What is missing here, such as passwords and limits, is the
business of the server in front.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastapi import FastAPI, HTTPException

import finetune
from utils import UserError

MOST = 1024  # texts that are computed in one call
Request = tuple[list[Any], asyncio.Future]  # texts, and what gets their answers


def app_of(model: finetune.Saved) -> FastAPI:
    """The application that answers with a model of sentences or pairs."""
    waiting: asyncio.Queue[Request] = asyncio.Queue()

    async def answer_together() -> None:
        while True:
            requests = [await waiting.get()]
            # What has arrived meanwhile is computed with it.
            while not waiting.empty() and sum(len(texts) for texts, _ in requests) < MOST:
                requests.append(waiting.get_nowait())
            try:
                await answer(requests)
            except UserError:
                # One of them is at fault; each is told apart from the others.
                for one in requests:
                    try:
                        await answer([one])
                    except UserError as error:
                        one[1].set_exception(error)

    async def answer(requests: list[Request]) -> None:
        texts = [text for texts, _ in requests for text in texts]
        found = await asyncio.to_thread(model.predict, texts)
        for one, answered in requests:
            # Whoever asked may have gone.
            if not answered.done():
                answered.set_result(found[: len(one)])
            found = found[len(one) :]

    @contextlib.asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(answer_together())
        yield
        task.cancel()

    app = FastAPI(lifespan=running)
    app.state.waiting = waiting

    @app.post("/predict")
    async def predict(texts: list[str | tuple[str, str]]) -> list[dict[str, Any]]:
        answered: asyncio.Future = asyncio.get_running_loop().create_future()
        await waiting.put((list(texts), answered))
        try:
            found = await answered
        except UserError as error:
            raise HTTPException(422, str(error)) from None
        if model.task.number:
            return [{"answer": float(one.answer)} for one in found]
        return [
            {"answer": one.answer, "confidence": one.confidence, "probabilities": one.scores}
            for one in found
        ]

    return app


def main(model_file: str, *, port: str = "8000") -> None:
    """Serve the model of a run's folder, a folder of Hugging Face's, or a .onnx."""
    import uvicorn

    uvicorn.run(app_of(finetune.load(model_file)), port=int(port))


if __name__ == "__main__":
    import fire

    fire.Fire(main)
