"""Kinds of layers that mix tokens: grouped, windowed, latent and sparse attention, recurrences."""
