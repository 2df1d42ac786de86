"""Look into finished cells: probe latents, draw roll-outs, export models."""
