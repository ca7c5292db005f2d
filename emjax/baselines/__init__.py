"""The classical methods that a network has to beat, each tuned as its own users would tune it.

`columns`: multi-scale Laplacian of Gaussian, 2-D Gaussian fit and height cuts for atom columns.
`restoration`: denoisers and fillers of missing pixels by name, tuned by one function.
"""
