"""Whether a pipeline guides, asked of the device once for each guidance scale."""

import contextlib

import torch


@contextlib.contextmanager
def _guidance_read_once(pipe):
    """Inside, `do_classifier_free_guidance` is a Python bool where the guidance scale is a device tensor."""
    cls, name = type(pipe), "do_classifier_free_guidance"
    own, asked = vars(cls).get(name), getattr(cls, name).fget
    known = [None, None, False]

    def guides(self):
        scale = getattr(self, "_guidance_scale", None)
        if not isinstance(scale, torch.Tensor):
            return asked(self)
        version = None if scale.is_inference() else scale._version
        if known[0] is not scale or known[1] != version:
            known[:] = scale, version, bool(asked(self))
        return known[2]

    setattr(cls, name, property(guides))
    try:
        yield
    finally:
        setattr(cls, name, own) if own is not None else delattr(cls, name)
