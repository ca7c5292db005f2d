"""From pixels to physics: `columns` (heat map to atom columns), `gaussian_fit` (their sub-pixel
positions and heights) and `precision` (the best that any fit could do)."""
