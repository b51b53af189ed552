"""What is shown of a layer: its statistics, the world most like it, contexts of latents."""
