"""Tensors of the CPU that a model is given, keeps or makes, put on the device before its parts send them."""

import functools

import torch
from torch.overrides import TorchFunctionMode

from diffprof.analyzers.syncs.shims.mode_scope import _take_off


class _HostUses(TorchFunctionMode):
    """Tells host tensors that are only sent to the device from those that the CPU computes with."""

    facts = frozenset(
        ("__get__", "size", "dim", "stride", "numel", "__len__", "is_floating_point", "is_complex")
    )

    def __init__(self):
        super().__init__()
        self.places = {}
        self.alive = []
        self.computed = set()

    def watch(self, value, place):
        for inner, tensor in _leaves(value, place):
            if _on_host(tensor):
                self.alive.append(tensor)  # so that its memory becomes no other tensor's
                self.places[tensor.untyped_storage().data_ptr()] = inner

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name not in self.facts:
            results = [tensor for _, tensor in _leaves(result)]
            on_device = name in ("to", "cuda") and all(each.device.type != "cpu" for each in results)
            for _, tensor in _leaves((args, kwargs)):
                place = self.place(tensor)
                views = bool(results) and all(self.place(each) == place for each in results)
                if place is not None and not on_device and not views:
                    self.computed.add(place)
        return result

    def place(self, tensor):
        return self.places.get(tensor.untyped_storage().data_ptr()) if _on_host(tensor) else None


class _HostTensors:
    """Puts host tensors on the device that a model only sends there: sent once each, and copied on the device
    when the same numbers come again.

    Attention blocks send the same rotary tables one after the other, and a time embedding its frequencies in
    each step; each copy from the CPU ends in a wait. The same numbers arrive, with the same type. The first
    call is watched, and the first with host tensors in other places: what the CPU computes with stays on the
    host, where it may be rounded otherwise.
    """

    most = 8
    """Tensors of one shape and type that are kept."""
    largest = 2**24
    """Bytes of a tensor that is kept."""
    kept_bytes = 2**28
    """Of all that are kept: then those of the shapes that came first go."""

    def __init__(self):
        self.kept = {}
        self.uses = None
        self.called = {}
        """Places of the CPU tensors that a call gave -> places of all tensors that are only sent then."""
        self.sent = None
        """Those of the call that runs; None in the first of its kind, which is watched."""

    def before(self, model, args, kwargs):
        self.after(model, args, kwargs, None)  # A call before it may have ended without: Ctrl-C does that.
        device = _device(args, kwargs)
        if device is None:
            return None
        self.kind = frozenset(place for place, each in _leaves((args, kwargs), ("given",)) if _on_host(each))
        self.sent = self.called.get(self.kind)
        if self.sent is None:
            self.uses = _HostUses()
            self.uses.watch((args, kwargs), ("given",))
            self.uses.__enter__()
            return None
        return self.moved((args, kwargs), ("given",), device)

    def after(self, model, args, kwargs, result):
        uses, self.uses = self.uses, None
        if uses is not None:
            _take_off(uses)
            if result is not None:
                self.called[self.kind] = set(uses.places.values()) - uses.computed

    def before_part(self, name, module, args, kwargs):
        device = _device(args, kwargs)
        for key, value in list(vars(module).items()) if device is not None else ():
            if key.startswith("_") or type(value) not in (torch.Tensor, tuple, list):
                continue
            if self.uses is not None:
                self.uses.watch(value, (name, key))
            elif any(
                t.device.type == "cpu" and place in (self.sent or ())
                for place, t in _leaves(value, (name, key))
            ):
                setattr(module, key, self.moved(value, (name, key), device))

    def after_part(self, name, module, args, kwargs, result):
        device = _device(args, kwargs)
        if device is None:
            return None
        if self.uses is not None:
            self.uses.watch(result, (name,))
            return None
        return self.moved(result, (name,), device)

    def moved(self, value, place, device):
        if isinstance(value, torch.Tensor):
            wanted = value.device.type == "cpu" and place in (self.sent or ())
            return self.tensor(value, device) if wanted else value
        if type(value) in (tuple, list):
            return type(value)(self.moved(each, (*place, n), device) for n, each in enumerate(value))
        if type(value) is dict:
            return {key: self.moved(each, (*place, key), device) for key, each in value.items()}
        return value

    def tensor(self, value, device):
        if value.numel() == 1:
            return torch.full(value.shape, value.item(), dtype=value.dtype, device=device)
        if value.nbytes > self.largest:
            return value.to(device)
        kept = self.kept.setdefault((value.shape, value.stride(), value.dtype, device), [])
        for on_host, on_device in kept:
            if torch.equal(on_host, value):
                return on_device.clone()
        kept.append((value.clone(), value.to(device)))
        del kept[: -self.most]
        while sum(each.nbytes for pairs in self.kept.values() for each, _ in pairs) > self.kept_bytes:
            del self.kept[next(iter(self.kept))]
        return kept[-1][1].clone()


def _on_host(tensor):
    return type(tensor) is torch.Tensor and tensor.device.type == "cpu" and tensor.layout == torch.strided


def _leaves(value, place=()):
    """The tensors in a value, with their places."""
    if isinstance(value, torch.Tensor):
        yield place, value
    elif isinstance(value, (tuple, list, dict)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(each, (*place, key))


def _device(args, kwargs):
    """Of the first tensor that is not on the CPU; None in code that is being compiled."""
    if torch.compiler.is_compiling():
        return None
    devices = (tensor.device for _, tensor in _leaves((args, kwargs)))
    return next((each for each in devices if each.type not in ("cpu", "meta")), None)


def _host_tensors_once(model, parts=()):
    """Send host tensors once that `model` is given, that these parts of it keep, and that its parts without
    parameters make (rotary embeddings)."""
    tensors = _HostTensors()
    model.register_forward_pre_hook(tensors.before, with_kwargs=True)
    model.register_forward_hook(tensors.after, with_kwargs=True, always_call=True)
    for name, module in model.named_modules():
        if name in parts:
            before = functools.partial(tensors.before_part, name)
            module.register_forward_pre_hook(before, with_kwargs=True)
        bare = not any(True for _ in module.parameters()) and not type(module).__module__.startswith("torch.")
        if bare:
            module.register_forward_hook(functools.partial(tensors.after_part, name), with_kwargs=True)
