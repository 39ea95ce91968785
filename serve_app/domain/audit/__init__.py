"""The audit log: the chain of its entries."""
