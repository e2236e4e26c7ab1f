"""Checks before and during training: start-up self-test, common recipe mistakes, doctor.

May import `model`, `data`, `distributed` of `gemfit.train`; not `loop`.
"""
