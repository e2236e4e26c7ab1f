"""The package map: two source roots and two data folders, which TOML cannot say.

Everything else is in pyproject.toml.
"""

from setuptools import find_namespace_packages, find_packages, setup

CODE = {"gemfit": "src", "gemfit_launch": "launch"}
DATA = {"gemfit_launch.recipes": "recipes", "gemfit_launch.slurm.shipped": "slurm"}

FILES = [
    "py.typed",
    "predict/facts/*.json",
    "data/tokenize/bpe/README.md",
    "export/*.jinja",
    "report/*.j2",
    "report/*.css",
    "audit/suites/*.yaml",
    "audit/lexicons/*.yaml",
]

# To setuptools every folder is a package, the ones with nothing but YAML too.
below = {
    f"{package}.{name}": f"{folder}/{name.replace('.', '/')}"
    for package, folder in DATA.items()
    for name in find_namespace_packages(folder)
}
data = DATA | below

setup(
    packages=[name for root in CODE.values() for name in find_packages(root)] + list(data),
    package_dir={package: f"{root}/{package}" for package, root in CODE.items()} | data,
    package_data=dict.fromkeys(CODE, FILES) | {package: ["*.yaml", "*.sbatch"] for package in data},
)
