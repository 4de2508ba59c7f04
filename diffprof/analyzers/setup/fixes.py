"""Fixes of the setup: types, attention, layout, fused layers, memory, compilation, and the alternatives."""

from __future__ import annotations

from diffprof.analyzers.setup import compiling, memory, models, precision
from diffprof.model.fix import Recipe

RECIPES: tuple[Recipe, ...] = (
    *precision.RECIPES,
    *memory.RECIPES,
    *compiling.RECIPES,
    *models.RECIPES,
)
