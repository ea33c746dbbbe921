"""Data sets of online clips as a user's own modules: ``use: tube.clips`` and ``use: tube.shots``."""
