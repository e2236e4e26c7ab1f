"""The package map: two source roots and two data folders, which TOML cannot say.

Everything else is in pyproject.toml.
"""

from setuptools import find_packages, setup

SOURCES = find_packages("src")
LAUNCHER = find_packages("launch")
DATA = {"gemfit_launch.recipes": "recipes", "gemfit_launch.slurm": "slurm"}

setup(
    packages=[*SOURCES, *LAUNCHER, *DATA],
    package_dir={"gemfit": "src/gemfit", "gemfit_launch": "launch/gemfit_launch", **DATA},
    package_data={
        "gemfit": ["py.typed"],
        "gemfit_launch": ["py.typed"],
        "gemfit_launch.recipes": ["**/*.yaml"],
        "gemfit_launch.slurm": ["**/*.yaml", "*.sbatch"],
    },
)
