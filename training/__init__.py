"""Makes the checkpoint that ships: drawn characters in motion, the recipe's stages, the evaluation."""
