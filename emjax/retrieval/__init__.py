"""Phase retrieval: what scattered the electrons, from what the detector counted.

`scan_data` holds a four-dimensional scan, `ptychography` is its forward model and what is unknown
in it, `likelihoods` compares rates with counts, `gradient` fits. The physics is that of
`simulators`.
"""
