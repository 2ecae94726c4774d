"""Training: one readable loop on Lightning Fabric. It receives a model and loaders, and knows no package above it.

Import what you need from its file, for the loop loads torch and the configuration does not:
``attnconv.train.config`` (RunConfig), ``.fit`` (fit), ``.evaluate`` (evaluate, Scores, Loader), ``.checkpoint``
(save_checkpoint, load_checkpoint, load_weights), ``.device`` (choose_device, make_fabric).
"""
