"""The devices of a process, chosen before jax counts them."""

import os

from .errors import ToysaeError


def use_all_cores() -> None:
    """Makes each core of a CPU a device of its own, so that an ensemble's SAEs train side by side.

    XLA runs the small products of small SAEs on one core only. Call this before the first array is
    made. It does nothing with a GPU or TPU, after jax has counted its devices, or if the
    environment has already chosen (``JAX_NUM_CPU_DEVICES``, or XLA's own flag).
    """
    import jax

    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if chosen or jax.config.values.get("jax_num_cpu_devices", -1) != -1:
        return
    try:
        jax.config.update("jax_num_cpu_devices", _cores())
    except RuntimeError:  # devices have been counted
        return


def check_platform() -> None:
    """Refuses platforms in ``JAX_PLATFORMS`` that this machine does not have.

    Raises:
        ToysaeError: naming them.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if not platforms:
        return
    import jax

    try:
        jax.devices()
    except Exception as error:  # jax raises several kinds, an AssertionError among them
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ToysaeError(
            f"JAX_PLATFORMS={platforms} is not available here ({reason}): unset it, or install jax "
            "for it"
        ) from error


def _cores() -> int:
    """The number of cores that this process may use; of the machine if the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
