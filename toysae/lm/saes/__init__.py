"""SAEs of captured activations: trained, saved, loaded, and when their latents fire."""
