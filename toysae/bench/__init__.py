"""Throughput of training, sampling and scoring, compared with what the device can do and with
SAELens; and what the engine costs.

Everything that is timed runs in a child process. Nothing is imported here, so that a child imports
only what it uses.
"""
