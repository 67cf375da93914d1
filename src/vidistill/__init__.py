"""Teach a small single-modality video model with everything else the video can tell."""

__version__ = "0.1.0"
