"""Offramp's search: spaces, samplers, evaluators, devices, training."""

__all__: list[str] = []
