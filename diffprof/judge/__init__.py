"""Judgement: rules, pricing, plan, acceptance, gate, comparison. Reads the model; no torch."""
