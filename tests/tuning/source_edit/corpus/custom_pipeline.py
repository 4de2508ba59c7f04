import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging

logger = logging.get_logger(__name__)


class TiltedPipeline(StableDiffusionPipeline):
    """Tilts the guidance on its way."""

    @torch.no_grad()
    def __call__(self, prompt, num_inference_steps=20, guidance_scale=7.5, **kwargs):
        device = self._execution_device
        embeds, negative = self.encode_prompt(prompt, device, 1, True)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        timesteps = self.scheduler.timesteps
        latents = self.prepare_latents(1, 4, 512, 512, embeds.dtype, device, None)
        with self.progress_bar(total=num_inference_steps) as progress_bar:
            for i, t in enumerate(timesteps):
                tilt = guidance_scale * (1 - t.item() / 1000)
                mask = torch.zeros(2, 1, 1, 1).cuda(); mask[1] = 1
                eps = self.unet(
                    torch.cat([latents] * 2),
                    t,
                    encoder_hidden_states=torch.cat([negative, embeds]),
                    return_dict=True
                ).sample
                guided = self.unet(latents, t,
                                   encoder_hidden_states=embeds).sample if tilt > 5 else eps[:1]
                latents = self.scheduler.step(guided, t, latents, **{"return_dict": False})[0]
                progress_bar.set_postfix(norm=latents.norm().item(), t=int(t))
                progress_bar.update()
                logger.debug(f"{i=}, {latents.mean()=}")
        posterior = self.vae.encode(latents)
        return posterior.latent_dist.sample(), posterior
