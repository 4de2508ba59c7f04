"""Small host values written on the device by a kernel instead of copied there."""

import functools

import torch

from diffprof.analyzers.syncs.shims.mode_scope import _around_methods, _in_call, _in_parts, _PushedMode


class _SmallUploads(_PushedMode):
    """Hands small host tensors to the device as arguments of a fill kernel, larger ones once.

    A copy from the CPU ends in a wait for the device; a kernel's arguments don't. The same numbers arrive.
    """

    largest = 8
    """Elements that are filled in one by one."""
    kept_bytes = 65536
    """Up to this size the device keeps what it was sent, to be copied there when it is sent again."""
    most = 64
    """Tensors that the device keeps."""

    def __init__(self, kept):
        super().__init__()
        self.kept = kept

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = "" if torch.compiler.is_compiling() else getattr(func, "__name__", "")
        if name in ("to", "cuda") and self.on_host(args[0]):
            device, dtype = self.target(args[1:], kwargs, "cuda" if name == "cuda" else "cpu")
            if device.type != "cpu":
                return self.upload(args[0].to(dtype or args[0].dtype), device)
        elif name in ("tensor", "as_tensor") and set(kwargs) <= {"dtype", "device"} and "device" in kwargs:
            device = torch.device(kwargs["device"] or "cpu")
            if device.type != "cpu" and not self.on_device(args[0]):
                return self.upload(func(*args, **{**kwargs, "device": "cpu"}), device)
        elif name == "__getitem__" and self.on_device(args[0]):
            args = args[0], self.index(args[1], args[0].device)
        elif name == "copy_" and self.on_device(args[0]) and self.on_host(args[1]):
            args = args[0], self.upload(args[1], args[0].device)
        elif name == "linalg_solve":
            # The same solver, without reading back whether the matrix was singular (then: not finite).
            return torch.linalg.solve_ex(*args, **kwargs)[0]
        return func(*args, **kwargs)

    def upload(self, values, device):
        if values.numel() == 1:
            return torch.full(values.shape, values.item(), dtype=values.dtype, device=device)
        if values.nbytes > self.kept_bytes or values.numel() == 0:
            return values.to(device)
        key = values.dtype, values.shape, device, values.contiguous().view(torch.uint8).numpy().tobytes()
        if key not in self.kept:
            for oldest in list(self.kept)[: 1 - self.most]:
                del self.kept[oldest]
            if values.numel() <= self.largest:  # It may not come again: kept from the second time on.
                self.kept[key] = None
                return self.filled(values, device)
            self.kept[key] = values.to(device)
        elif self.kept[key] is None:
            self.kept[key] = self.filled(values, device)
        return self.kept[key].clone()

    def filled(self, values, device):
        """A kernel for all, and one for each number that is not the first."""
        first, *others = values.flatten().tolist()
        made = torch.full(values.shape, first, dtype=values.dtype, device=device)
        flat = made.view(-1)
        for place, number in enumerate(others, 1):
            if repr(number) != repr(first):  # 0.0 and -0.0 are two.
                flat[place].fill_(number)
        return made

    def index(self, index, device):
        """A list of whole numbers, or a host tensor of them, becomes an index on the device."""
        if isinstance(index, tuple):
            return tuple(self.index(part, device) for part in index)
        if isinstance(index, list) and index and all(type(number) is int for number in index):
            index = torch.tensor(index)
        if self.on_host(index) and index.dim() and index.dtype == torch.int64:
            return self.upload(index, device)
        return index

    def target(self, args, kwargs, default):
        device, dtype = torch.device(default), None
        for given in (*args, *kwargs.values()):
            if isinstance(given, torch.Tensor):
                device, dtype = given.device, given.dtype
            elif isinstance(given, torch.dtype):
                dtype = given
            elif isinstance(given, (str, torch.device)) or type(given) is int:
                device = torch.device(given)
        return device, dtype

    def on_host(self, value):
        return isinstance(value, torch.Tensor) and value.device.type == "cpu" and not value.requires_grad

    def on_device(self, value):
        if isinstance(value, (list, tuple)):
            return any(self.on_device(element) for element in value)
        return isinstance(value, torch.Tensor) and value.device.type != "cpu"


def _fill_small_uploads(scheduler, methods):
    """Run these methods of a scheduler with `_SmallUploads`."""
    _around_methods(scheduler, methods, functools.partial(_SmallUploads, {}))


def _fill_small_uploads_in(model, parts):
    """Run the code of parts of a model with `_SmallUploads`."""
    _in_parts(model, parts, functools.partial(_SmallUploads, {}))


def _small_uploads_filled(pipe):
    """Inside, the pipeline's own code runs with `_SmallUploads`."""
    return _in_call(pipe, _SmallUploads({}))
