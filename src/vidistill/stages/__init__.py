"""The stages of a run: prepare, teachers, audit, distil, evaluate, export, report; each skips what is done."""
