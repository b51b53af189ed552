"""Throughput of training, sampling and scoring, beside what the device can do and beside SAELens.

Everything timed runs in a child process. Nothing is imported here, so that a child pays only for
what it uses.
"""
