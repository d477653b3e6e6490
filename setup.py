"""Which files are in the wheel? `shardwright` (this folder) and whatever the six floors hold on disk."""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

FLOORS = ("models", "trainers", "jobs", "cluster", "slurm", "k8s")
FILES = ["**/*.toml", "**/*.html", "**/*.css", "**/*.js"]  # job examples and the report's template

patterns = [name for floor in FLOORS for name in (floor, f"{floor}.*")]
below = [f"shardwright.{package}" for package in find_packages(include=patterns)]


class Modules(build_py):
    """All modules but this one: it lies in the root package's folder, and is no part of the package."""

    def find_package_modules(self, package, package_dir):
        """(package, module, file) of each module of a package."""
        found = super().find_package_modules(package, package_dir)
        return [entry for entry in found if entry[:2] != ("shardwright", "setup")]


setup(
    packages=["shardwright", *below],
    package_data={"shardwright": ["py.typed"], **{f"shardwright.{floor}": FILES for floor in FLOORS}},
    cmdclass={"build_py": Modules},
)
