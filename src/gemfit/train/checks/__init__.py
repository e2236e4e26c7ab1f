"""Checks before training: start-up self-test, common recipe mistakes, doctor.

May import `model`, `data`, `distributed`, `trainer_view` of `gemfit.train`; neither `loop` nor `telemetry`.
"""
