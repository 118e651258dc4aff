"""The commands that search, one module each: ``search``, ``demo``, ``methods``, ``compare``."""

__all__: list[str] = []
