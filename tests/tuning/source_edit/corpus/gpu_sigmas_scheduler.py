"""A scheduler that keeps its tables on the GPU, "because it is faster"."""
from __future__ import annotations

import torch
from diffusers import EulerDiscreteScheduler


class GpuSigmasScheduler(EulerDiscreteScheduler):
    """Euler, with everything on the device."""

    order = 1

    def set_timesteps(self, num_inference_steps=None, device: str|torch.device = None, **kwargs):
        super().set_timesteps(num_inference_steps, device=device, **kwargs)
        sigmas = self.sigmas
        self.sigmas = sigmas.to( device=device )   # <- keep on the GPU
        self.log_sigmas = sigmas.log().to(device)
        self._gammas = (sigmas[1:] / sigmas[:-1]) ** 0.5

    def step(self, model_output, timestep, sample, return_dict=True, **kwargs):
        if self.step_index is None:
            self._init_step_index(timestep)
        sigma = self.sigmas[self.step_index]
        if self._gammas[self.step_index] > 0.9:
            pass
        if sigma > 5.0 and \
                self.log_sigmas[self._step_index] > 0:   # still noisy
            sample = sample * 1.0
        weights = self.log_sigmas.to(sample.device)
        dt = self.sigmas[self.step_index + 1] - sigma
        self._step_index += 1
        return (sample + model_output * dt + 0 * weights.sum(),)
