"""Spaces of two encoders: maps between them, and how well vectors of one serve the other. Needs no extra."""
