"""Which devices a process has, said before jax counts them."""

import os

from .errors import ToysaeError


def use_all_cores() -> None:
    """Makes each core of a CPU a device of its own, so that an ensemble's SAEs train side by side.

    XLA runs the small products of small SAEs on one core only. To be called before the first
    array is made; does nothing where there is a GPU or TPU, after jax has counted its devices, or
    where the environment has chosen already (``JAX_NUM_CPU_DEVICES``, or XLA's own flag).
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
    """Refuses what ``JAX_PLATFORMS`` asks for and this machine has not, before it is needed.

    Raises:
        ToysaeError: naming it.
    """
    asked = os.environ.get("JAX_PLATFORMS", "")
    if not asked:
        return
    import jax

    try:
        jax.devices()
    except Exception as error:  # jax raises several kinds, an AssertionError among them
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ToysaeError(
            f"JAX_PLATFORMS={asked} cannot be had here ({reason}): unset it, or install jax for it"
        ) from error


def _cores() -> int:
    """Those that this process may use, where the system says."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
