"""From pixels to physics: `columns` (heat map to atom columns), `gaussian_fit` (their sub-pixel
positions and heights), `precision` (the best that any fit could do) and `noise_calibration` (from
images to the noise that made them)."""
