"""Training: one readable loop on Lightning Fabric, which receives a model and loaders.

Import names from their files, because the loop loads torch and the configuration does not:
``attnconv.train.config`` (RunConfig), ``.fit`` (fit), ``.evaluate`` (evaluate, Scores, Loader), ``.checkpoint``
(save_checkpoint, load_checkpoint, load_weights), ``.device`` (choose_device, make_fabric).
"""
