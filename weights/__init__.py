"""The store of weights: a library that replicas and the command line share. No ray, no torch.

``store.Store`` is the way in.
"""
