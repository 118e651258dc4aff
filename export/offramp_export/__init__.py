"""Offramp's export: torch stages to programs, and the proof that they agree."""

__all__: list[str] = []
