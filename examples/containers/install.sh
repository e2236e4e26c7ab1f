#!/bin/sh
# Installs gemfit and what trains, at the versions of constraints.txt, into the image that is being built.
#
# The working folder holds what the wheel is made of. No step of gemfit needs nvcc or a C++ compiler: torch's AdamW is
# the optimizer of every strategy, so DeepSpeed builds none of its operators, and torch brings the CUDA libraries.
# Triton (model.compile, flex_attention, Liger) compiles a launcher in C for each kernel, against Python's headers.
set -eu

apt-get update
apt-get install --yes --no-install-recommends gcc libc6-dev
rm -rf /var/lib/apt/lists/*

pip install --no-cache-dir --constraint constraints.txt '.[train,audit,qlora]'
gemfit version
