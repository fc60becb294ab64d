"""How to train: settings, a model on a device, a run's folder."""
