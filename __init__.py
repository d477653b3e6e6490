"""Shardwright: one job file trains any PyTorch model, sharded any way, and proves the result never changed."""
