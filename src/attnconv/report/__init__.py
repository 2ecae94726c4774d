"""Records of runs into tables, figures and a page. Never runs a model."""
