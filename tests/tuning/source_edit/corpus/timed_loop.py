import torch


def benchmark(pipe, timesteps, latents):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for t in timesteps:
        start.record()
        latents = pipe.step(latents, t)
        end.record()
        torch.cuda.synchronize()
        yield start.elapsed_time(end)


def preview(pipe, timesteps, latents, show):
    for t in timesteps:
        latents = pipe.step(latents, t)
        small = latents.mean(1).to("cpu", non_blocking=True)
        torch.cuda.synchronize()  # small has to be there
        show(small)


def plain(pipe, timesteps, latents):
    for t in timesteps:
        latents = pipe.step(latents, t)
        torch.cuda.synchronize()  # why?
    return latents
