"""Which packages are in the wheel: `shardwright` (this folder) and whatever the six floors hold on disk."""

from setuptools import find_packages, setup

FLOORS = ("models", "trainers", "jobs", "cluster", "slurm", "k8s")
patterns = [name for floor in FLOORS for name in (floor, f"{floor}.*")]
below = [f"shardwright.{package}" for package in find_packages(include=patterns)]

setup(packages=["shardwright", *below])
