import torch
from diffusers import DDIMScheduler


class CleanedDDIM(DDIMScheduler):
    def set_timesteps(self, num_inference_steps: int, device=None):
        """As in DDIM, shifted by one."""
        super().set_timesteps(num_inference_steps, device=device)
        self.timesteps = self.timesteps.clamp(min=1)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int,  # comes as a tensor, in truth
        sample: torch.Tensor,
        eta: float = 0.0,
        **unused,
    ):
        """Predict the sample one step before."""
        # 1. the step before
        prev_timestep = timestep - self.config.num_train_timesteps // self.num_inference_steps

        # 2. alphas
        alpha_prod_t = self.alphas_cumprod[timestep]
        alpha_prod_t_prev = self.alphas_cumprod[prev_timestep] if prev_timestep >= 0 else self.final_alpha_cumprod
        variance = self._get_variance(timestep, prev_timestep)

        x0 = (sample - (1 - alpha_prod_t) ** 0.5 * model_output) / alpha_prod_t ** 0.5
        return (alpha_prod_t_prev ** 0.5 * x0 + (1 - alpha_prod_t_prev - eta * variance) ** 0.5 * model_output,)


class Shortcut(DDIMScheduler):
    def step(self, model_output, timestep, sample, **kwargs):
        if self.alphas_cumprod[timestep] < 0.01:
            model_output = model_output * 0.99
        return super().step(model_output, timestep, sample, **kwargs)


class Inherits(DDIMScheduler):
    def step(self, model_output, timestep, sample, **kwargs):
        a = self.alphas_cumprod[timestep]
        return ((sample - (1 - a).sqrt() * model_output) / a.sqrt(),)
