#!/usr/bin/env python3
# A little server, in the manner of FastAPI.
import asyncio, io
from contextlib import asynccontextmanager
from typing import Annotated

import torch
from diffusers import (
    AutoPipelineForText2Image,
    EulerAncestralDiscreteScheduler,
)
from fastapi import Depends, FastAPI, Response

state = {}


@asynccontextmanager
async def lifespan(app: FastAPI):
    pipe = AutoPipelineForText2Image.from_pretrained(
        "stabilityai/sdxl-turbo",
        variant="fp16",   # smaller download
    ).to("cuda")
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)

    pipe.load_lora_weights("some/lora")
    state["pipe"] = pipe
    yield
    state.clear()


app = FastAPI(lifespan=lifespan)
lock = asyncio.Lock()


def progress(pipe, i, t, kwargs):
    print(f"{i}: {t}")
    return kwargs


@app.get("/image", response_class=Response)
async def image(prompt: str, steps: Annotated[int, Depends(lambda: 4)] = 4) -> Response:
    async with lock:
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(None, lambda: state["pipe"](prompt, num_inference_steps=steps, callback_on_step_end=progress))
        torch.cuda.synchronize()
    buffer = io.BytesIO(); result.images[0].save(buffer, format="PNG")
    return Response(buffer.getvalue(), media_type="image/png")
