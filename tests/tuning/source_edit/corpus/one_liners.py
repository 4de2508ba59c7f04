import torch; from torch import nn
def f(x, device): return g(torch.zeros(3,).to(x.device), h(torch.full((2, 2), 1.0).cuda()), [torch.eye(2).to(device) for _ in range(2)])
class A: t = 1; u = torch.empty(4).to(device)
for t in ts: a = 1; torch.cuda.synchronize(); b = 2
for t in ts:
  if t: torch.cuda.synchronize()
  else: torch.cuda.current_stream().synchronize()
r = (unet(x, t).sample, unet(x, t, **kw).sample, unet(x, t).sample.chunk(2)[0], (dist(x)).sample())
y = torch.arange(0, 1, .1).to(device)
