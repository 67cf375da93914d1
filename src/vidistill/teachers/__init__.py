"""Teachers: frozen networks that answer for a view, live or cached; their ensembles, calibration and audit."""
