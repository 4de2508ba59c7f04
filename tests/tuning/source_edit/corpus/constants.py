import math
import torch


class Guidance:
    scale = 2

    def step(self, sample, t, weights=None):
        device = sample.device
        half = torch.tensor(0.5, device=device)
        minus = torch.tensor( [ -1 ] , dtype=torch.long, device = device )  # last
        pair = torch.tensor([1.0] * 2).to(device); flag = torch.as_tensor(True).to(device=device)
        gain = torch.tensor(self.scale * math.pi, device=device, dtype=sample.dtype)
        vague = torch.tensor(self.scale, device=device)
        exact = torch.tensor(float(self.scale), device=device)
        three = torch.tensor([1, 2, 3], device=device)
        leaf = torch.tensor(1.0, device=device, requires_grad=True)
        times = torch.tensor([t] * sample.shape[0], device=device, dtype=torch.float32)
        onto_host = torch.tensor([t])
        mixed = torch.tensor([t, 0.5], device=device)
        return half * minus * pair * gain * vague * exact * three.sum() * leaf * times * mixed * flag

    def many(self, latents, mask, n):
        for i in range(n):
            # the mask, again
            keep = mask.to(latents.device)
            own = torch.tensor([0.1 * i, 0.2], device=latents.device)
            table = torch.tensor([0.3, 0.2], device=latents.device)
            table[0] = i
            shared = torch.tensor([0.4, 0.2], device=latents.device)
            self.use(shared)
            held = torch.tensor(self.held, device=latents.device)
            kept = torch.tensor(n, device=latents.device, dtype=torch.float32); both = torch.tensor(i, device="cuda")
            latents = latents * keep + held + kept + both + own.sum() + table.sum()
            if i % 2:
                odd = torch.tensor([0.5, 0.2], device=latents.device)
                latents = latents + odd.sum()
        return latents
