from dataclasses import dataclass, field
import torch
from diffusers import StableDiffusionXLPipeline


class Studio:
	"""Holds the pipe; indented with tabs."""

	def __init__(self, name, device = "cuda"):
		self.device = device
		self.pipe = StableDiffusionXLPipeline.from_pretrained(name)  # type: StableDiffusionXLPipeline
		self.pipe.to(device)
		self.pipe.vae.enable_tiling()
		self.warm_up()

	def warm_up(self):
		with torch.no_grad() :
			self("nothing", steps=1)

	def __call__(self, prompt, steps=30):
		def callback(pipe, i, t, kwargs):
			for name, value in kwargs.items():
				if i: print(name, value.norm().item())
				print("%s: %.2f" % (name, value.mean())); print(i)
			return kwargs

		return self.pipe(prompt, num_inference_steps=steps, callback_on_step_end=callback).images[0]
