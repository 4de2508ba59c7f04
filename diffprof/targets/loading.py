"""Let code that builds and loads models go on without their weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diffprof.devices.simulated.host_placeholders import hold_on_host, weight_stand_in
from diffprof.model.callsite import asked_at
from diffprof.model.pipeline import Pipeline, components, replaced
from diffprof.model.recording import Unseen
from diffprof.targets.adapter_files import loras_stand_in
from diffprof.targets.construct import assemble, built_instead, random_values, weightless
from diffprof.targets.custom import pipeline_class_of
from diffprof.targets.known import KnownCheckpoints
from diffprof.targets.load_arguments import (
    LEFT_AS_IS,
    QUANTIZED_PACKAGES,
    UNQUANTIZED,
    Loading,
    everywhere,
)
from diffprof.targets.single_files import single_files_stand_in

if TYPE_CHECKING:
    from diffprof.devices import Device
    from diffprof.targets import Options


class Building:
    """How a user's models come to be. unseen: what was asked for and is not honoured."""

    def __init__(self, options: Options, device: Device) -> None:
        self.with_weights = options.weights
        self.empty = not device.wants_values
        self.device = device
        self.unseen: list[Unseen] = []

    def weights_of(self, pipe: Pipeline) -> str:
        """real, random or none."""
        from diffprof.targets.live import weights_of

        if self.with_weights:
            return weights_of(pipe)
        return "none" if self.empty else "random"

    def stand_in(self, weight: torch.Tensor) -> torch.Tensor:
        """What stands for a weight; of one that was quantized, the plain one, which is said once a line."""
        if type(weight).__module__.startswith(QUANTIZED_PACKAGES):
            site = asked_at()
            what = f"{type(weight).__name__} weights"
            if all(row.what != what or row.site != site for row in self.unseen):
                self.unseen.append(Unseen(what=what, why=UNQUANTIZED, site=site, kind="left-out"))
        return weight_stand_in(weight)

    def settled(self, model: torch.nn.Module, loading: Loading) -> object:
        """A model or pipeline as its loader would give it back: on the device that was asked for, with the
        loading info where it was wanted."""
        device_map = loading.kwargs.get("device_map")
        for part in loading.left_as_is(model):
            setattr(part, LEFT_AS_IS, True)
        if everywhere(device_map):
            self.device.place(model)
        self._name(loading)
        return (model, {}) if loading.kwargs.get("output_loading_info") else model

    def _name(self, loading: Loading) -> None:
        """Say which arguments were not honoured."""
        site = asked_at()
        for name, why in loading.not_honoured().items():
            what = f"{name} of {loading.cls.__name__}.from_pretrained"
            self.unseen.append(Unseen(what=what, why=why, site=site, kind="left-out"))


@contextmanager
def models_built(options: Options, device: Device) -> Iterator[Building]:
    """Where the device wants no values, models made inside have parameters without memory, which moving and
    offloading treat like any. With `weights=False`, what is loaded inside is built from its configuration:
    such parameters, or random ones where the device computes."""
    building = Building(options, device)
    with ExitStack() as undo:
        if building.empty:
            undo.enter_context(weightless(building.stand_in))
            undo.enter_context(_emptied_in_place(device))
        if not options.weights:
            around = weightless if building.empty else lambda: random_values(None)
            undo.enter_context(built_instead(around, lambda model, loading: _held(building, model, loading)))
            known = KnownCheckpoints(undo, building.unseen)
            undo.enter_context(known.in_place())
            undo.enter_context(_pipelines_assembled(building, known))
            undo.enter_context(_dispatched_instead())
            undo.enter_context(single_files_stand_in(building.unseen))
            undo.enter_context(loras_stand_in(building.unseen, empty=building.empty))
        yield building


def _held(building: Building, model: torch.nn.Module, loading: Loading) -> object:
    hold_on_host(model)
    return building.settled(model, loading)


@contextmanager
def _emptied_in_place(device: Device) -> Iterator[None]:
    """`module.to_empty(device="cuda")` takes no memory."""
    original = torch.nn.Module.to_empty

    def to_empty(self: torch.nn.Module, *, device: torch.types.Device, recurse: bool = True) -> object:
        if not (recurse and everywhere(device)):
            return original(self, device=device, recurse=recurse)
        place(self)
        return self

    place = device.place
    with replaced(torch.nn.Module, "to_empty", to_empty):
        yield


@contextmanager
def _pipelines_assembled(building: Building, known: KnownCheckpoints) -> Iterator[None]:
    from diffusers import DiffusionPipeline

    def from_pretrained(cls: object, pretrained_model_name_or_path: object, **kwargs: object) -> object:
        name = str(pretrained_model_name_or_path)
        return _pipeline(cls, known.folder(name) or _folder(name), kwargs, building)

    load: Any = from_pretrained
    with replaced(DiffusionPipeline, "from_pretrained", classmethod(load)):
        yield


def _folder(name: str) -> Path:
    from diffprof.targets.checkpoint import downloaded

    return Path(name) if Path(name).is_dir() else downloaded(name, with_weights=False)


def _pipeline(cls: object, folder: Path, kwargs: dict[str, object], building: Building) -> object:
    made = pipeline_class_of(cls, folder, kwargs)
    accepted = set(inspect.signature(made.__init__).parameters)
    loading = Loading(made, kwargs, honoured=accepted | {"custom_pipeline", "load_connected_pipeline"})
    pipe = assemble([folder], empty=building.empty, dtype=loading.dtypes(), cls=made, given=kwargs)
    for part in components(pipe).values():
        if isinstance(part, torch.nn.Module):
            hold_on_host(part)
    return building.settled(pipe, loading)


@contextmanager
def _dispatched_instead() -> Iterator[None]:
    """accelerate's loading of a checkpoint into a model that is there: no file is read."""
    import accelerate
    from accelerate import big_modeling

    def load(model: torch.nn.Module, *args: object, **kwargs: object) -> None:
        hold_on_host(model)

    def load_and_dispatch(
        model: torch.nn.Module, checkpoint: object, device_map: object = None, **kwargs: object
    ) -> object:
        hold_on_host(model)
        if device_map is None:
            return model
        if isinstance(device_map, str):
            device_map = {"": 0}
        return big_modeling.dispatch_model(model, device_map=device_map, **_taken(kwargs))

    def _taken(kwargs: Mapping[str, object]) -> dict[str, object]:
        known = inspect.signature(big_modeling.dispatch_model).parameters
        return {name: value for name, value in kwargs.items() if name in known}

    instead: dict[str, Callable[..., object]] = {
        "load_checkpoint_in_model": load,
        "load_checkpoint_and_dispatch": load_and_dispatch,
    }
    with ExitStack() as undo:
        for owner in (accelerate, big_modeling):
            for name, function in instead.items():
                if hasattr(owner, name):
                    undo.enter_context(replaced(owner, name, function))
        yield
