"""What a run found, for people: one-file HTML pages, tables for terminals and documents, figures."""

from __future__ import annotations
