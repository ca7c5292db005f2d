"""What is measured, one family a file.

=================  =================================================================================
`detection`        lists of points against the truth: precision, recall, F1; with `matching`
`localisation`     centroid and tracing errors, rate and distance apart; the Cramér-Rao bound
`confusion`        confusion matrix and its rates, ROC, precision-recall, pixel error
`overlap`          Dice, IoU of masks and boxes, average precision at an overlap
`segments`         Rand and information scores, variation of information; with `segment_variants`
`image_quality`    MSE, PSNR, SSIM (windowed, and global as in print); with `series`: CSS, its trap
`goodness`         R², R factor, χ², signal-to-noise ratio
`resolution`       Fourier ring and shell correlation, thresholds; with `spectral`: SSNR and bias
`calibration`      are the stated probabilities and error bars true?
`statistics`       intervals round the numbers, by resampling images
=================  =================================================================================

**One function for both uses.** Given NumPy arrays, lists or numbers, a metric computes in NumPy
float64 and checks its input: that is the reference. Given a JAX array (one is enough) the same
lines compute with JAX in its precision, under `jit`, `vmap` and `grad`; what depends on values
(labels out of range, NaN) cannot be checked there, and comes out as NaN or is left out, as each
docstring says. Both agree to 1e-6. Where a result's size depends on the data (curves, pairings,
average precision of boxes, border thinning) there is the NumPy form alone, and the docstring says
"NumPy only". Predictions come first, the truth second.

Nothing is imported here, so that the one costs nothing to who uses the other.
"""
