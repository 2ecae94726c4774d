"""Records of runs into tables, figures and pages. Never runs a model."""
