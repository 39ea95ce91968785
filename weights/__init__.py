"""Store of model weights: a library that replicas and the command line share. It imports neither
ray nor torch.

``store.Store`` is the entry point.
"""
