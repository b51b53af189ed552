"""What SAEs and their latents do in a model: losses, steering, patching, neurons."""
